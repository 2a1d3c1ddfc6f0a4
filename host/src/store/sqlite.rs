//! The embedded store: SQLite in WAL mode, one writer with grouped commits, pooled readers.
