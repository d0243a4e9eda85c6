"""Training of the pocket rewards: miniatures of HPSv2.1, PickScore and HPSv3 in their own file formats."""
