"""What the suite costs: each benchmark is one command and writes JSON."""
