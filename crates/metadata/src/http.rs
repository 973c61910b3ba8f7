//! HTTP/1.0 and 1.1 (RFC 9112), as far as metadata needs it: requests without a body, one answer after the other.

use multihome_guest::metadata::Response;

/// Longest head of a request, in bytes.
const HEAD: usize = 8192;
/// Most header fields of a request.
const FIELDS: usize = 64;
/// What tells a client how long its token holds, and how long it asked for.
const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// A request's line and fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its method; GET where it was HEAD, whose answer is the same without its body.
    pub method: &'a str,
    /// Its path, from the slash on.
    pub path: &'a str,
    /// Its fields, as written.
    pub headers: Vec<(&'a str, &'a str)>,
}

/// One connection's bytes, in and out.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    heard: Vec<u8>,
    said: Vec<u8>,
    at: usize,
    ending: bool,
}

impl Conversation {
    /// Takes what came in. What comes after the last request of a connection is dropped.
    pub fn hear(&mut self, bytes: &[u8]) {
        if !self.ending {
            self.heard.extend_from_slice(bytes);
        }
    }

    /// How many bytes may still come in before an answer is out.
    pub fn room(&self) -> usize {
        (HEAD + 1).saturating_sub(self.heard.len())
    }

    /// What is to go out now.
    pub fn pending(&self) -> &[u8] {
        &self.said[self.at..]
    }

    /// Counts bytes of it as gone.
    pub fn sent(&mut self, n: usize) {
        self.at += n;
        if self.at >= self.said.len() {
            self.said = vec![];
            self.at = 0;
        }
    }

    /// Whether everything is said, and nothing more is heard.
    pub fn is_over(&self) -> bool {
        self.ending && self.pending().is_empty()
    }

    /// Answers the next request if it is all there and the last answer is out. Says whether it did.
    pub fn step(&mut self, answer: &dyn Fn(&Request<'_>) -> Response) -> bool {
        if self.ending || !self.pending().is_empty() || self.heard.is_empty() {
            return false;
        }
        let mut fields = [httparse::EMPTY_HEADER; FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let head = &self.heard[..self.heard.len().min(HEAD)];
        let length = match request.parse(head) {
            Ok(httparse::Status::Complete(n)) => n,
            Ok(httparse::Status::Partial) if self.heard.len() <= HEAD => return false,
            Ok(httparse::Status::Partial) => return self.refuse(431),
            Err(_) => return self.refuse(400),
        };
        let (said, ends) = reply(&request, answer);
        self.heard.drain(..length);
        self.said = said;
        self.ending = ends;
        true
    }

    fn refuse(&mut self, status: u16) -> bool {
        let body = format!("{status} - {}\n", reason(status));
        self.said = head(status, "text/plain", body.len(), "", true).into_bytes();
        self.said.extend(body.into_bytes());
        self.ending = true;
        true
    }
}

/// The answer's bytes, and whether the connection ends with it.
fn reply(request: &httparse::Request<'_, '_>, answer: &dyn Fn(&Request<'_>) -> Response) -> (Vec<u8>, bool) {
    let headers: Vec<(&str, &str)> =
        request.headers.iter().filter_map(|h| Some((h.name, std::str::from_utf8(h.value).ok()?))).collect();
    let field = |name: &str| headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim());
    let wants =
        |word: &str| field("connection").is_some_and(|v| v.split(',').any(|w| w.trim().eq_ignore_ascii_case(word)));
    // A body is not read: whatever follows the head would be taken for a request.
    let body = field("transfer-encoding").is_some() || field("content-length").is_some_and(|l| l != "0");
    let keeps = if request.version == Some(1) { !wants("close") } else { wants("keep-alive") };
    let ends = body || !keeps;
    let method = request.method.unwrap_or_default();
    let path = origin(request.path.unwrap_or_default());
    let ttl = field(TTL).map(str::to_owned);
    let asked = Request { method: if method == "HEAD" { "GET" } else { method }, path, headers };
    let r = answer(&asked);
    // SDKs refuse a token without it.
    let ttl = ttl.filter(|_| method == "PUT" && r.status == 200).map(|t| format!("{TTL}: {t}\r\n"));
    let mut out = head(r.status, r.content_type, r.body.len(), &ttl.unwrap_or_default(), ends).into_bytes();
    if method != "HEAD" {
        out.extend(r.body.into_bytes());
    }
    (out, ends)
}

/// The path of a target in absolute form (RFC 9112 section 3.2.2), as proxies are asked.
fn origin(target: &str) -> &str {
    let Some(rest) = target.strip_prefix("http://") else { return target };
    rest.find('/').map_or("/", |at| &rest[at..])
}

fn head(status: u16, kind: &str, length: usize, more: &str, ends: bool) -> String {
    let connection = if ends { "close" } else { "keep-alive" };
    format!(
        "HTTP/1.1 {status} {}\r\nServer: multihome\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: {connection}\r\n{more}\r\n",
        reason(status)
    )
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        431 => "Request Header Fields Too Large",
        _ => "Answer",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn echo(r: &Request<'_>) -> Response {
        Response { status: 200, content_type: "text/plain", body: format!("{} {}", r.method, r.path) }
    }

    /// Everything that is said to these bytes, in pieces of any size.
    fn talk(bytes: &[u8], piece: usize) -> (String, bool) {
        let mut c = Conversation::default();
        let mut out = vec![];
        let mut drain = |c: &mut Conversation| {
            while c.step(&echo) {
                let n = c.pending().len();
                out.extend_from_slice(c.pending());
                c.sent(n);
            }
        };
        for part in bytes.chunks(piece) {
            c.hear(part);
            drain(&mut c);
        }
        (String::from_utf8(out).unwrap(), c.is_over())
    }

    #[test]
    fn requests_follow_each_other_until_one_says_close() {
        let text = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nHEAD http://x/b HTTP/1.1\r\n\r\nGET /c HTTP/1.1\r\nConnection: x, Close\r\n\r\nGET /d";
        for piece in [1, 7, 4096] {
            let (said, over) = talk(text, piece);
            let bodies: Vec<&str> = said.split("\r\n\r\n").collect();
            assert!(bodies[1].starts_with("GET /aHTTP/1.1 200 OK\r\n"), "{said}");
            assert!(said.contains("Content-Length: 6\r\nConnection: keep-alive\r\n\r\nHTTP/1.1 200"), "{said}");
            assert!(said.ends_with("Connection: close\r\n\r\nGET /c") && over, "{said}");
        }
    }

    #[test]
    fn http_1_0_closes_unless_asked_otherwise() {
        assert!(talk(b"GET / HTTP/1.0\r\n\r\n", 99).1);
        assert!(!talk(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 99).1);
    }

    #[test]
    fn junk_heads_too_long_and_bodies_end_the_connection() {
        let (said, over) = talk(b"\x16\x03\x01\x02\x00\x01", 99);
        assert!(said.starts_with("HTTP/1.1 400 Bad Request\r\n") && over, "{said}");
        let long = format!("GET / HTTP/1.1\r\nX: {}", "a".repeat(9000));
        let (said, over) = talk(long.as_bytes(), 512);
        assert!(said.starts_with("HTTP/1.1 431 ") && over, "{said}");
        let (said, over) = talk(b"POST /x HTTP/1.1\r\nContent-Length: 20\r\n\r\nGET /y HTTP/1.1\r\n\r\n", 99);
        assert!(said.ends_with("POST /x") && over, "{said}");
    }

    #[test]
    fn a_token_says_how_long_it_holds() {
        let (said, _) =
            talk(b"PUT /t HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\nContent-Length: 0\r\n\r\n", 99);
        assert!(said.contains("\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n"), "{said}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_head(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..600), 0..40)) {
            let mut c = Conversation::default();
            for p in parts {
                let n = p.len().min(c.room());
                c.hear(&p[..n]);
                c.step(&echo);
                let n = c.pending().len();
                c.sent(n);
                prop_assert!(c.heard.len() <= HEAD + 1);
            }
        }
    }
}
