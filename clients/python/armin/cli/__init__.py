"""The `armin` command."""
