//! HTTP/1.1 as attackers, broken clients and slow links speak it (RFC 9110, RFC 9112).

mod oracle;
mod slow;
mod table;
mod vectors;
mod well_formed;
