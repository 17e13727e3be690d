//! quorate-host
