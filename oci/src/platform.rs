//! Platforms: what a machine must be to run an image.
//!
//! Spec: image-spec image-index.md, `platform`; its text is that of the command lines, `linux/arm/v7`.

use std::fmt;

/// An operating system and an architecture, in the names that Go gives them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`
    pub os: Box<str>,
    /// `amd64`
    pub architecture: Box<str>,
    /// `v7`; `None`: not said.
    pub variant: Option<Box<str>>,
}

impl Platform {
    /// The longest text of one, in bytes.
    pub const LEN_MAX: usize = 64;

    /// Parses `os/architecture` or `os/architecture/variant`. `None`: it is none.
    pub fn parse(text: &str) -> Option<Platform> {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
        let mut parts = text.split('/');
        let mut part =
            || Some(parts.next()).map(|part| part.filter(|part| !part.is_empty() && part.bytes().all(legal)));
        let (os, architecture) = (part()??.into(), part()??.into());
        let variant = match text.split('/').count() {
            2 => None,
            3 => Some(part()??.into()),
            _ => return None,
        };
        (text.len() <= Platform::LEN_MAX).then_some(Platform { os, architecture, variant })
    }

    /// Whether an image for `offered` is one for this: a variant counts only if it was asked for, and `arm64` is `v8`.
    pub fn takes(&self, offered: &Platform) -> bool {
        let usual = |platform: &Platform| match &*platform.architecture {
            "arm64" => Some("v8".into()),
            _ => None,
        };
        let variant = |platform: &Platform| platform.variant.clone().or_else(|| usual(platform));
        self.os == offered.os
            && self.architecture == offered.architecture
            && (self.variant.is_none() || variant(self) == variant(offered))
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_platform() {
        for text in ["linux/amd64", "linux/arm/v7", "windows/amd64", "linux/s390x"] {
            assert_eq!(Platform::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/AMD64", "linux/arm/", "linux /amd64"]
        {
            assert_eq!(Platform::parse(text), None, "{text}");
        }
        let longest = format!("linux/{}", "a".repeat(Platform::LEN_MAX - 6));
        assert!(Platform::parse(&longest).is_some());
        assert_eq!(Platform::parse(&format!("{longest}a")), None);
    }

    #[test]
    fn a_variant_counts_if_it_was_asked_for() {
        let takes = |asked: &str, offered: &str| {
            Platform::parse(asked).unwrap().takes(&Platform::parse(offered).unwrap())
        };
        assert!(takes("linux/amd64", "linux/amd64"));
        assert!(!takes("linux/amd64", "linux/arm64"));
        assert!(!takes("linux/amd64", "windows/amd64"));
        assert!(takes("linux/arm", "linux/arm/v6") && takes("linux/arm", "linux/arm/v7"));
        assert!(takes("linux/arm/v7", "linux/arm/v7"));
        assert!(!takes("linux/arm/v7", "linux/arm/v6") && !takes("linux/arm/v7", "linux/arm"));
        assert!(takes("linux/arm64", "linux/arm64/v8") && takes("linux/arm64/v8", "linux/arm64"));
        assert!(!takes("linux/arm64/v9", "linux/arm64"));
    }
}
