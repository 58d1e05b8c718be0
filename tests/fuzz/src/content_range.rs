//! Which bytes an upstream says that it sends.

use controlplane::upstream::testing::{content_range as read, size_of_unsatisfied};

/// The input is the value of a `Content-Range`; and once more three numbers.
pub fn content_range(bytes: &[u8]) {
    let (satisfied, unsatisfied) = (read(bytes), size_of_unsatisfied(bytes));
    assert!(satisfied.is_none() || unsatisfied.is_none(), "either there is a range, or there is none");
    if let Some((first, last, size)) = satisfied {
        assert!(first <= last && size.is_none_or(|size| last < size), "it contradicts itself");
        let size = size.map_or("*".to_owned(), |size| size.to_string());
        assert_eq!(read(format!("bytes {first}-{last}/{size}").as_bytes()), satisfied);
    }
    if let Some(size) = unsatisfied {
        assert_eq!(size_of_unsatisfied(format!("bytes */{size}").as_bytes()), unsatisfied);
    }

    let mut numbers = bytes.chunks(8).map(|eight| {
        let mut bytes = [0; 8];
        bytes[..eight.len()].copy_from_slice(eight);
        u64::from_le_bytes(bytes)
    });
    let [first, last, size] = [(); 3].map(|()| numbers.next().unwrap_or_default());
    let fits = first <= last;
    assert_eq!(read(format!("bytes {first}-{last}/*").as_bytes()), fits.then_some((first, last, None)));
    let fits = fits && last < size;
    let line = format!("Bytes  {first}-{last}/{size} ");
    assert_eq!(read(line.as_bytes()), fits.then_some((first, last, Some(size))));
    for wrong in [
        format!("bytes={first}-{last}/{size}"),
        format!("bytes {first}-{last}/+{size}"),
        format!("bytes {first}-/{size}"),
    ] {
        assert_eq!((read(wrong.as_bytes()), size_of_unsatisfied(wrong.as_bytes())), (None, None), "{wrong}");
    }
}
