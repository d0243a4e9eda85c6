"""Training of the pocket rewards: HPSv2.1, PickScore and HPSv3 in miniature, in their formats."""
