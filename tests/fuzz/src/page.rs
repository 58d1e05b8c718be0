//! Paging: a `Link` leads to the same list behind the last entry, and nowhere else.

use oci::{Endpoint, Method, Page};

use super::first_line;

/// The input is the target of a list, LF, and the last entry of the page that was served.
pub fn page(bytes: &[u8]) {
    let (target, last) = first_line(bytes);
    let Ok(last) = std::str::from_utf8(last) else { return };
    let asked = Endpoint::parse(Method::Get, target);
    let page = match &asked {
        Ok(Endpoint::Catalog(page) | Endpoint::Tags { page, .. }) => page.clone(),
        Ok(Endpoint::Referrers(referrers)) => referrers.page.clone(),
        Ok(_) | Err(_) => Page::default(),
    };
    assert!(page.limit() <= Page::LIMIT_MAX);

    let link = page.next_link(target, last);
    let next = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
    let next = next.expect("one target, one parameter");
    assert!(next.starts_with('/') && !next.starts_with("//"), "{next} is on another host");
    let plain = |letter: char| letter.is_ascii_graphic() && !"<>\"\\,;".contains(letter);
    assert!(next.chars().all(plain), "{next} leaves its brackets");

    let behind = Page { last: Some(last.to_owned()).filter(|last| !last.is_empty()), ..page };
    let expected = match asked {
        Ok(Endpoint::Catalog(_)) => Endpoint::Catalog(behind),
        Ok(Endpoint::Tags { repository, .. }) => Endpoint::Tags { repository, page: behind },
        Ok(Endpoint::Referrers(mut referrers)) => {
            referrers.page = behind;
            Endpoint::Referrers(referrers)
        }
        Ok(_) | Err(_) => return,
    };
    assert_eq!(Endpoint::parse(Method::Get, next.as_bytes()), Ok(expected), "{next}");
}
