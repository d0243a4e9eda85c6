"""Published numbers, ledger, tables, figures and report."""
