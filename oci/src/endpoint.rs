//! What a request asks: one variant per end-point of the spec, everything in it typed.
//!
//! Owns: the routes under `/v2/` and their query keys.
//!
//! Invariants: path and query are percent-decoded once, before routing; without a `%` nothing is allocated for a
//! request on a blob or manifest. Routes are read from the right, since a name may hold `blobs` or `manifests`.
//!
//! Spec: distribution-spec, "Endpoints".

use std::borrow::Cow;

use crate::digest::{Algorithm, Digest, DigestError};
use crate::method::Method;
use crate::name::{Reference, RepositoryName, Tag, UploadId};
use crate::namespaces::Within;
use crate::page::Page;
use crate::percent;
use crate::problem::Problem;

/// A request, parsed. HEAD is the same as GET.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Endpoint {
    /// end-1
    Base,
    /// `GET /v2/_catalog`
    Catalog(Page),
    /// end-2
    GetBlob {
        /// In which repository.
        repository: RepositoryName,
        /// Which blob.
        digest: Digest,
    },
    /// end-10
    DeleteBlob {
        /// In which repository.
        repository: RepositoryName,
        /// Which blob.
        digest: Digest,
    },
    /// end-3
    GetManifest {
        /// In which repository.
        repository: RepositoryName,
        /// Which manifest.
        reference: Reference,
    },
    /// end-7a, end-7b
    PutManifest(Box<PutManifest>),
    /// end-9
    DeleteManifest {
        /// In which repository.
        repository: RepositoryName,
        /// Which manifest, or which tag.
        reference: Reference,
    },
    /// end-4a, end-4b, end-4c, end-11
    OpenUpload(Box<OpenUpload>),
    /// end-5
    PatchUpload {
        /// In which repository.
        repository: RepositoryName,
        /// Which session.
        id: UploadId,
    },
    /// end-6
    CloseUpload {
        /// In which repository.
        repository: RepositoryName,
        /// Which session.
        id: UploadId,
        /// What the whole blob must be.
        digest: Digest,
    },
    /// end-13
    UploadStatus {
        /// In which repository.
        repository: RepositoryName,
        /// Which session.
        id: UploadId,
    },
    /// end-14
    CancelUpload {
        /// In which repository.
        repository: RepositoryName,
        /// Which session.
        id: UploadId,
    },
    /// end-8a, end-8b
    Tags {
        /// Of which repository.
        repository: RepositoryName,
        /// Which of them.
        page: Page,
    },
    /// end-12a, end-12b
    Referrers(Box<Referrers>),
    /// A path outside of `/v2/`; which one, and whether it exists, the receiver of the target knows.
    Fixed,
}

/// end-7a, end-7b.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PutManifest {
    /// In which repository.
    pub repository: RepositoryName,
    /// What the path names.
    pub reference: Reference,
    /// Each `?tag=`, in the order they were sent; at most [`PutManifest::TAGS_MAX`].
    pub tags: Vec<Tag>,
}

impl PutManifest {
    /// The most `?tag=` in one request.
    pub const TAGS_MAX: usize = 32;
}

/// end-4a, end-4b, end-4c, end-11.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OpenUpload {
    /// In which repository.
    pub repository: RepositoryName,
    /// `?digest-algorithm=`
    pub algorithm: Option<Algorithm>,
    /// `?digest=`: the body is the whole blob.
    pub digest: Option<Digest>,
    /// `?mount=`
    pub mount: Option<Mount>,
}

/// end-11: what is to be linked instead of uploaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    /// Which blob.
    pub digest: Digest,
    /// `?from=`. `None`: not said.
    pub from: Option<RepositoryName>,
}

/// end-12a, end-12b.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Referrers {
    /// In which repository.
    pub repository: RepositoryName,
    /// Whose referrers.
    pub subject: Digest,
    /// `?artifactType=`, a space in it read as `+`.
    pub artifact_type: Option<String>,
    /// `last` is what our own `Link` carried; `n` is not of this end-point and always `None`.
    pub page: Page,
}

impl Endpoint {
    /// Parses the raw request target, in origin-form.
    ///
    /// Errors: `NotFound` (404) for an unknown path under `/v2/`; `MethodNotAllowed` (405); `NameInvalid`,
    /// `DigestInvalid`, `TagInvalid`, `PaginationNumberInvalid`, `BlobUploadInvalid`, `RequestMalformed` (400);
    /// `ReferenceInvalid` and `BlobUploadUnknown` (404); `TooManyTags` (414).
    pub fn parse(method: Method, target: &[u8]) -> Result<Endpoint, Problem> {
        let target = Target::split(target)?;
        Endpoint::route(method, &target.path, target.query, Within::nobody())
    }

    /// The same of a decoded path, whose names belong where `within` says.
    pub(crate) fn route(
        method: Method,
        path: &[u8],
        query: Query<'_>,
        within: Within<'_>,
    ) -> Result<Endpoint, Problem> {
        match path {
            b"/v2" => Route::Base.ask(method, query, within),
            [b'/', b'v', b'2', b'/', rest @ ..] => {
                // A name, reference or id is ASCII, so what is not text is no path of ours.
                let rest = std::str::from_utf8(rest).map_err(|_not_text| Problem::NameInvalid)?;
                Route::find(rest).ok_or(Problem::NotFound)?.ask(method, query, within)
            }
            _ => Ok(Endpoint::Fixed),
        }
    }

    /// The repository that is asked about.
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Endpoint::Base | Endpoint::Catalog(_) | Endpoint::Fixed => None,
            Endpoint::GetBlob { repository, .. }
            | Endpoint::DeleteBlob { repository, .. }
            | Endpoint::GetManifest { repository, .. }
            | Endpoint::DeleteManifest { repository, .. }
            | Endpoint::PatchUpload { repository, .. }
            | Endpoint::CloseUpload { repository, .. }
            | Endpoint::UploadStatus { repository, .. }
            | Endpoint::CancelUpload { repository, .. }
            | Endpoint::Tags { repository, .. } => Some(repository),
            Endpoint::PutManifest(put) => Some(&put.repository),
            Endpoint::OpenUpload(open) => Some(&open.repository),
            Endpoint::Referrers(referrers) => Some(&referrers.repository),
        }
    }

    /// A short constant name for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Endpoint::Base => "base",
            Endpoint::Catalog(_) => "catalog",
            Endpoint::GetBlob { .. } => "get_blob",
            Endpoint::DeleteBlob { .. } => "delete_blob",
            Endpoint::GetManifest { .. } => "get_manifest",
            Endpoint::PutManifest(_) => "put_manifest",
            Endpoint::DeleteManifest { .. } => "delete_manifest",
            Endpoint::OpenUpload(_) => "open_upload",
            Endpoint::PatchUpload { .. } => "patch_upload",
            Endpoint::CloseUpload { .. } => "close_upload",
            Endpoint::UploadStatus { .. } => "upload_status",
            Endpoint::CancelUpload { .. } => "cancel_upload",
            Endpoint::Tags { .. } => "tags",
            Endpoint::Referrers(_) => "referrers",
            Endpoint::Fixed => "fixed",
        }
    }
}

/// The shape of a path under `/v2/`, its parts not yet looked at.
#[derive(Clone, Copy)]
enum Route<'a> {
    Base,
    Catalog,
    Blob { name: &'a str, digest: &'a str },
    Manifest { name: &'a str, reference: &'a str },
    Uploads { name: &'a str },
    Upload { name: &'a str, id: &'a str },
    Tags { name: &'a str },
    Referrers { name: &'a str, subject: &'a str },
}

impl<'a> Route<'a> {
    fn find(rest: &'a str) -> Option<Route<'a>> {
        match rest {
            "" => return Some(Route::Base),
            "_catalog" => return Some(Route::Catalog),
            _ => {}
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Some(Route::Tags { name });
        }
        if let Some(name) =
            rest.strip_suffix("/blobs/uploads/").or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Some(Route::Uploads { name });
        }
        let (front, last) = rest.rsplit_once('/')?;
        let (name, kind) = front.rsplit_once('/')?;
        match kind {
            "blobs" => Some(Route::Blob { name, digest: last }),
            "manifests" => Some(Route::Manifest { name, reference: last }),
            "referrers" => Some(Route::Referrers { name, subject: last }),
            "uploads" => name.strip_suffix("/blobs").map(|name| Route::Upload { name, id: last }),
            _ => None,
        }
    }

    fn allow(self) -> &'static str {
        match self {
            Route::Base | Route::Catalog | Route::Tags { .. } | Route::Referrers { .. } => "GET, HEAD",
            Route::Blob { .. } => "GET, HEAD, DELETE",
            Route::Manifest { .. } => "GET, HEAD, PUT, DELETE",
            Route::Uploads { .. } => "POST",
            Route::Upload { .. } => "GET, HEAD, PATCH, PUT, DELETE",
        }
    }

    fn ask(self, method: Method, query: Query<'_>, within: Within<'_>) -> Result<Endpoint, Problem> {
        use Method::{Delete, Get, Head, Patch, Post, Put};
        Ok(match (self, method) {
            (Route::Base, Get | Head) => Endpoint::Base,
            (Route::Catalog, Get | Head) => {
                within.is_local()?;
                Endpoint::Catalog(query.page()?)
            }
            (Route::Blob { name, digest }, Get | Head) => {
                Endpoint::GetBlob { repository: within.repository(name)?, digest: Digest::parse(digest)? }
            }
            (Route::Blob { name, digest }, Delete) => {
                Endpoint::DeleteBlob { repository: within.repository(name)?, digest: Digest::parse(digest)? }
            }
            (Route::Manifest { name, reference }, Get | Head) => Endpoint::GetManifest {
                repository: within.repository(name)?,
                reference: Reference::parse(reference).map_err(|_neither| Problem::ReferenceInvalid)?,
            },
            (Route::Manifest { name, reference }, Put) => Endpoint::PutManifest(Box::new(PutManifest {
                repository: within.repository(name)?,
                reference: Reference::parse(reference)?,
                tags: query.tags()?,
            })),
            (Route::Manifest { name, reference }, Delete) => Endpoint::DeleteManifest {
                repository: within.repository(name)?,
                reference: Reference::parse(reference)?,
            },
            (Route::Uploads { name }, Post) => {
                Endpoint::OpenUpload(Box::new(query.open_upload(within.repository(name)?)?))
            }
            // Where it was opened, by a write.
            (Route::Upload { name, id }, Get | Head) => {
                Endpoint::UploadStatus { repository: within.by_path().repository(name)?, id: session(id)? }
            }
            (Route::Upload { name, id }, Patch) => {
                Endpoint::PatchUpload { repository: within.repository(name)?, id: session(id)? }
            }
            (Route::Upload { name, id }, Delete) => {
                Endpoint::CancelUpload { repository: within.repository(name)?, id: session(id)? }
            }
            (Route::Upload { name, id }, Put) => Endpoint::CloseUpload {
                repository: within.repository(name)?,
                id: session(id)?,
                digest: query
                    .digest("digest")?
                    .ok_or(Problem::DigestInvalid { why: "?digest= is missing" })?,
            },
            (Route::Tags { name }, Get | Head) => {
                Endpoint::Tags { repository: within.repository(name)?, page: query.page()? }
            }
            (Route::Referrers { name, subject }, Get | Head) => Endpoint::Referrers(Box::new(
                query.referrers(within.repository(name)?, Digest::parse(subject)?)?,
            )),
            (route, _) => return Err(Problem::MethodNotAllowed { allow: route.allow() }),
        })
    }
}

/// An id that we did not make names no session.
fn session(id: &str) -> Result<UploadId, Problem> {
    UploadId::parse(id).ok_or(Problem::BlobUploadUnknown)
}

/// The part of the target after `?`, still encoded.
#[derive(Clone, Copy)]
pub(crate) struct Query<'a>(&'a [u8]);

/// A request target in its two parts.
pub(crate) struct Target<'a> {
    /// Decoded.
    pub(crate) path: Cow<'a, [u8]>,
    /// What follows the question mark.
    pub(crate) query: Query<'a>,
}

impl<'a> Target<'a> {
    pub(crate) fn split(target: &'a [u8]) -> Result<Target<'a>, Problem> {
        if !target.starts_with(b"/") {
            return Err(Problem::RequestMalformed { why: "the request target is not a path" });
        }
        let question = target.iter().position(|byte| *byte == b'?');
        let (path, query) = match question {
            Some(at) => (&target[..at], Query(&target[at + 1..])),
            None => (target, Query(&[])),
        };
        let path = percent::decode(path).map_err(|percent::BadEscape| Problem::RequestMalformed {
            why: "a % in the path is no escape",
        })?;
        Ok(Target { path, query })
    }
}

impl<'a> Query<'a> {
    /// Every value of `key`, still encoded. A key that cannot be decoded is not one of ours.
    fn values(self, key: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.0.split(|byte| *byte == b'&').filter_map(move |pair| {
            let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            let sent = percent::decode(&pair[..equals]).ok()?;
            (sent.as_ref() == key.as_bytes()).then(|| pair.get(equals + 1..).unwrap_or_default())
        })
    }

    /// The one value of `key`. Twice is refused: two readers of the URL could take different ones.
    pub(crate) fn value(self, key: &'static str) -> Result<Option<Cow<'a, str>>, Problem> {
        let mut values = self.values(key);
        let Some(value) = values.next() else { return Ok(None) };
        match values.next() {
            None => text(value).map(Some),
            Some(_) => Err(Problem::RequestMalformed { why: "a query key is sent twice" }),
        }
    }

    fn digest(self, key: &'static str) -> Result<Option<Digest>, Problem> {
        Ok(self.value(key)?.map(|value| Digest::parse(&value)).transpose()?)
    }

    fn last(self) -> Result<Option<String>, Problem> {
        Ok(self.value("last")?.filter(|last| !last.is_empty()).map(Cow::into_owned))
    }

    fn page(self) -> Result<Page, Problem> {
        let n = self.value("n")?.map(|n| Page::parse_n(&n)).transpose()?;
        Ok(Page { n, last: self.last()? })
    }

    fn tags(self) -> Result<Vec<Tag>, Problem> {
        if self.values("tag").count() > PutManifest::TAGS_MAX {
            return Err(Problem::TooManyTags);
        }
        self.values("tag").map(|value| Ok(Tag::parse(&text(value)?)?)).collect()
    }

    fn open_upload(self, repository: RepositoryName) -> Result<OpenUpload, Problem> {
        let algorithm = self
            .value("digest-algorithm")?
            .map(|name| Algorithm::parse(&name).ok_or(DigestError::UnknownAlgorithm))
            .transpose()?;
        Ok(OpenUpload { repository, algorithm, digest: self.digest("digest")?, mount: self.mount()? })
    }

    /// A `from` that is no repository name cannot be mounted from: like any other mount that is not possible, the
    /// answer is an upload session (end-11), not an error.
    fn mount(self) -> Result<Option<Mount>, Problem> {
        let Some(digest) = self.digest("mount")? else { return Ok(None) };
        Ok(match self.value("from")?.filter(|from| !from.is_empty()) {
            None => Some(Mount { digest, from: None }),
            Some(from) => RepositoryName::parse(&from).ok().map(|from| Mount { digest, from: Some(from) }),
        })
    }

    fn referrers(self, repository: RepositoryName, subject: Digest) -> Result<Referrers, Problem> {
        let artifact_type = self.value("artifactType")?.filter(|wanted| !wanted.is_empty());
        Ok(Referrers {
            repository,
            subject,
            // Clients that do not encode the `+` of a media type lose it to form decoding on the way.
            artifact_type: artifact_type.map(|wanted| wanted.replace(' ', "+")),
            page: Page { n: None, last: self.last()? },
        })
    }
}

fn text(value: &[u8]) -> Result<Cow<'_, str>, Problem> {
    const MALFORMED: Problem = Problem::RequestMalformed { why: "a query value is not percent-encoded text" };
    match percent::decode(value) {
        Ok(Cow::Borrowed(bytes)) => {
            std::str::from_utf8(bytes).map(Cow::Borrowed).map_err(|_not_text| MALFORMED)
        }
        Ok(Cow::Owned(bytes)) => String::from_utf8(bytes).map(Cow::Owned).map_err(|_not_text| MALFORMED),
        Err(percent::BadEscape) => Err(MALFORMED),
    }
}

#[cfg(test)]
mod tests;
