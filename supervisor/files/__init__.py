"""Files that clients upload for jobs, and files that jobs save."""
