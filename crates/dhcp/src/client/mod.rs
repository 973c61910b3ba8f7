//! The client's side, as far as a prober needs it: what asks DHCP servers and routers who they are, what takes a lease for a
//! moment and gives it back, and what is read of their answers. Bytes in, bytes out.

pub mod ra;
pub mod v4;
pub mod v6;
