//! One vDisk's engine: log, map, read, write, trim, flush, checkpoint, recovery, reclaim.
