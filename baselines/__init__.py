"""The methods LeapAlign is compared with, one file each."""
