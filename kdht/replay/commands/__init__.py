"""The commands of kdht-replay, one file each: they fetch plain data, `kdht.replay.draw` draws it."""
