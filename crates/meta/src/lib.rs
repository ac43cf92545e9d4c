//! The metadata store: a small trait of ordered keys with transactions, its typed records, and the embedded store.
