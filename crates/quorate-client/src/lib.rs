//! quorate-client
