"""What runs inside the processes that get killed. Standard library only; never imports the supervisor."""
