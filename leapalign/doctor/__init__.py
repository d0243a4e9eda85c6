"""What a training needs, told before it begins: memory, time, disk; and what would do instead.

`python -m leapalign.doctor` shows it all. Memory follows from the models' configuration files
alone, time from a short measurement on the machine.
"""
