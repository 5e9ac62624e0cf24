//! The log, its views and the tables.
