"""The ``mae`` command line: thin over `mae_sdk`, one file a group of commands."""
