//! The request methods that the spec uses.

/// A request method.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Method {
    /// `GET`
    Get,
    /// `HEAD`
    Head,
    /// `PUT`
    Put,
    /// `POST`
    Post,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
    /// Any other; under `/v2/` it is answered with 405.
    Other,
}

impl Method {
    /// Methods are case-sensitive (RFC 9110 §9.1).
    pub fn parse(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "PUT" => Method::Put,
            "POST" => Method::Post,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            _ => Method::Other,
        }
    }

    /// The name on the wire; `OTHER` for what has none here.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Put => "PUT",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Other => "OTHER",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive() {
        for method in [Method::Get, Method::Head, Method::Put, Method::Post, Method::Patch, Method::Delete] {
            assert_eq!(Method::parse(method.name()), method);
            assert_eq!(Method::parse(&method.name().to_lowercase()), Method::Other);
        }
        assert_eq!(Method::parse("CONNECT"), Method::Other);
        assert_eq!(Method::parse(""), Method::Other);
    }
}
