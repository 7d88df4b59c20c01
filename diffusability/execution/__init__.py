"""Running a study on a machine or a cluster; nothing here changes results."""
