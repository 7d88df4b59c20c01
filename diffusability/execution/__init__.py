"""How a study is run on a machine or a cluster; nothing here changes what comes out."""
