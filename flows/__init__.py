"""When, how often, who decides: the Prefect flows and the command line."""
