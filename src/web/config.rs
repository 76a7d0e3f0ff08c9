//! The file of `--web.config.file`, which has the format of Prometheus' exporter-toolkit, to checked values. What it
//! takes and refuses is what that takes and refuses, except where it would serve less safely than the file says.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use axum::http::{HeaderName, HeaderValue};
use bcrypt::HashParts;
use jiff::SignedDuration;
use serde::Deserialize;

use super::tls::{self, ClientAuth, Curve, Suite, Tls, Version};

/// A check of cost 17 takes 6 s, of the 10 that Prometheus waits, and all other checks wait for it.
const MAX_COST: u32 = 16;
/// Most bytes of a file that is read again at each request.
const MAX_FILE: u64 = 1 << 20;
/// The headers that may be set, as they are to be written, and the values they may have if not any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// What the file says.
#[derive(Debug)]
pub struct WebConfig {
    /// Nothing for plain HTTP.
    pub tls: Option<Tls>,
    /// For every answer.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// bcrypt hashes by user; if there is none, nobody is asked for a password.
    pub users: HashMap<String, String>,
    /// How many requests are answered.
    pub rate: Option<Rate>,
    /// What the file says about who gets in.
    pub gates: Vec<Gate>,
}

/// A field that is written, and whether it keeps anybody out.
pub type Gate = (&'static str, bool);

/// One request in each `interval`, and `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Above zero.
    pub interval: Duration,
    /// At least 1.
    pub burst: u32,
}

/// Files as they were read, to see whether they changed since.
pub type Texts = Vec<(PathBuf, Vec<u8>)>;

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Root {
    tls_server_config: Option<TlsSection>,
    http_server_config: Option<HttpSection>,
    basic_auth_users: Option<HashMap<String, Hash>>,
    rate_limit: Option<RateSection>,
}

/// `tls_server_config` as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the names are the file's")]
pub struct TlsSection {
    pub cert: Option<String>,
    pub cert_file: Option<String>,
    pub key: Option<String>,
    pub key_file: Option<String>,
    pub client_ca: Option<String>,
    pub client_ca_file: Option<String>,
    pub client_auth_type: Option<ClientAuth>,
    pub client_allowed_sans: Option<Vec<String>>,
    pub min_version: Option<Version>,
    pub max_version: Option<Version>,
    pub cipher_suites: Option<Vec<Suite>>,
    pub curve_preferences: Option<Vec<Curve>>,
    pub prefer_server_cipher_suites: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct HttpSection {
    /// Allows HTTP/2, which we never speak; whoever could also speaks HTTP/1.
    #[serde(rename = "http2")]
    _http2: Option<bool>,
    headers: Option<HashMap<Header, Option<String>>>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct RateSection {
    interval: Option<Interval>,
    burst: Option<u32>,
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Hash(String);

impl TryFrom<String> for Hash {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match HashParts::from_str(&text) {
            Ok(hash) if (4..=MAX_COST).contains(&hash.get_cost()) => Ok(Self(text)),
            Ok(_) => Err("the cost of a hash in basic_auth_users is not from 4 to 16: make it with 10"),
            Err(_) => Err(
                "a value of basic_auth_users is no bcrypt hash: make one with `htpasswd -nBC 10 \"\" | tr -d ':\\n'`",
            ),
        }
    }
}

/// Which of [`HEADERS`].
#[derive(Deserialize, Eq, Hash, PartialEq)]
#[serde(try_from = "String")]
struct Header(usize);

impl TryFrom<String> for Header {
    type Error = String;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let found = HEADERS.iter().position(|(header, _)| *header == name);
        found.map(Self).ok_or_else(|| {
            let names: Vec<&str> = HEADERS.iter().map(|(header, _)| *header).collect();
            format!("HTTP header \"{name}\" can not be configured: write one of {}", names.join(", "))
        })
    }
}

#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Interval(Duration);

impl TryFrom<String> for Interval {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let interval = text.parse::<SignedDuration>().ok().and_then(|time| Duration::try_from(time).ok());
        interval.map(Self).ok_or("rate_limit.interval is no length of time: write it as 1s, 100ms or 1m30s")
    }
}

/// Reads the file and those it names; the error is a sentence. What was read is put into `texts` even then.
pub fn read(file: &Path, texts: &mut Texts) -> Result<WebConfig, String> {
    let failed = |what: String| format!("{}{what}", file.display());
    let text = read_text(file, texts).map_err(|error| {
        format!("{} cannot be read ({error}): correct it or --web.config.file", file.display())
    })?;
    let root = parse(&text).map_err(failed)?;
    let gates = gates(&root);
    let http = root.http_server_config.unwrap_or_default();
    let headers = headers(http.headers.unwrap_or_default()).map_err(|what| failed(format!(": {what}")))?;
    let users = root.basic_auth_users.unwrap_or_default();
    let users = users.into_iter().map(|(user, hash)| (user, hash.0)).collect();
    let rate = rate(&root.rate_limit.unwrap_or_default()).map_err(|what| failed(format!(": {what}")))?;
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut named = |path: &str| read_text(&folder.join(path), texts).map_err(|error| error.to_string());
    let tls = tls::build(root.tls_server_config.unwrap_or_default(), &mut named)
        .map_err(|what| failed(format!(": {what}")))?;
    Ok(WebConfig { tls, headers, users, rate, gates })
}

fn gates(root: &Root) -> Vec<Gate> {
    let tls = root.tls_server_config.as_ref();
    let users = root.basic_auth_users.as_ref().map(|users| ("basic_auth_users", !users.is_empty()));
    let auth = tls.and_then(|tls| tls.client_auth_type);
    let auth = auth.map(|auth| ("client_auth_type", auth != ClientAuth::None));
    let names = tls.and_then(|tls| tls.client_allowed_sans.as_ref()).map(|_| ("client_allowed_sans", true));
    users.into_iter().chain(auth).chain(names).collect()
}

/// Whether each of `texts` is still what is in its file.
pub fn unchanged(texts: &Texts) -> bool {
    !texts.is_empty() && texts.iter().all(|(file, text)| read_file(file).is_ok_and(|now| now == *text))
}

fn read_text(file: &Path, texts: &mut Texts) -> io::Result<Vec<u8>> {
    let text = read_file(file)?;
    texts.push((file.to_owned(), text.clone()));
    Ok(text)
}

fn read_file(file: &Path) -> io::Result<Vec<u8>> {
    // A pipe would keep us waiting.
    if !fs::metadata(file)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut text = Vec::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it has more than 1 MiB"));
    }
    Ok(text)
}

/// The error begins with the place in the file.
fn parse(text: &[u8]) -> Result<Root, String> {
    let options = serde_saphyr::options! {
        // A snippet would show secrets.
        with_snippet: false,
    };
    let read = serde_saphyr::from_slice_with_options::<Option<Root>>(text, options);
    read.map(Option::unwrap_or_default).map_err(|error| {
        let place = error.location().map_or_else(String::new, |place| format!(", line {}", place.line()));
        let what = match &error {
            // Ours.
            serde_saphyr::Error::Message { msg, .. } => msg.clone(),
            serde_saphyr::Error::SerdeUnknownField { field, expected, .. } => {
                format!("there is no \"{field}\": write one of {}", expected.join(", "))
            }
            serde_saphyr::Error::DuplicateMappingKey { key, .. } => {
                format!("{} is there twice: remove one", key.as_deref().unwrap_or("a key"))
            }
            serde_saphyr::Error::MultipleDocuments { .. } => "a second document begins: remove it".to_owned(),
            other => {
                let text = other.to_string();
                // It says its place, too.
                let what = text.rsplit_once(" at line ").map_or(text.as_str(), |(what, _)| what);
                format!("this cannot be understood ({what}): write it as in the example in docs/install.md")
            }
        };
        format!("{place}: {what}")
    })
}

fn headers(given: HashMap<Header, Option<String>>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let checked = |(Header(header), value): (Header, Option<String>)| {
        let ((name, allowed), value) = (HEADERS[header], value.unwrap_or_default());
        if !allowed.is_empty() && !allowed.contains(&value.as_str()) {
            return Err(format!("{name} is \"{value}\": write {}", allowed.join(" or ")));
        }
        let text = HeaderValue::from_str(&value)
            .map_err(|_| format!("the value of {name} cannot stand in a header: write it in one line"))?;
        Ok((HeaderName::from_str(name).expect("it is one of HEADERS"), text))
    };
    given.into_iter().map(checked).collect()
}

fn rate(given: &RateSection) -> Result<Option<Rate>, &'static str> {
    let burst = given.burst.unwrap_or(0);
    match given.interval {
        None | Some(Interval(Duration::ZERO)) => Ok(None),
        Some(_) if burst == 0 => Err(
            "rate_limit.interval without a rate_limit.burst lets no request through: write how many at once",
        ),
        Some(Interval(interval)) => Ok(Some(Rate { interval, burst })),
    }
}

#[cfg(test)]
mod tests;
