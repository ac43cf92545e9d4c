//! The iSCSI protocol (RFC 7143), target side, sans I/O: PDU codec, text negotiation, login and the full feature phase.
