//! quorate-server
