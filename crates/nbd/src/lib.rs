//! The NBD protocol: codec and server session, sans I/O; sees only block.
