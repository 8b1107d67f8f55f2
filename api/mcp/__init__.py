"""Job types as tools of the Model Context Protocol. Imports the package `mcp`: only for a server that has it on."""
