"""The paper's tables, figures and report, rendered from a ledger of results alone."""
