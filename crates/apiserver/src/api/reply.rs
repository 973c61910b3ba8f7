//! Answers, before they are HTTP.

use super::body::ResponseBody;
use super::render::write_json;
use crate::error::ApiError;
use bytes::Bytes;
use futures::Stream;
use http::{HeaderValue, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::Value;
use std::convert::Infallible;

/// An answer.
pub(crate) struct Reply {
    status: u16,
    content_type: &'static str,
    body: Body,
    warnings: Vec<String>,
    etag: Option<String>,
}

enum Body {
    Whole(Bytes),
    Stream(ResponseBody),
}

impl Reply {
    pub fn json(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            content_type: "application/json",
            body: Body::Whole(body.into()),
            warnings: Vec::new(),
            etag: None,
        }
    }

    pub fn value(status: u16, value: &Value) -> Self {
        let mut body = Vec::new();
        write_json(value, &mut body);
        Self::json(status, body)
    }

    pub fn text(status: u16, body: &'static str) -> Self {
        Self { content_type: "text/plain; charset=utf-8", ..Self::json(status, body) }
    }

    pub fn error(error: &ApiError) -> Self {
        Self::value(error.code, &error.status())
    }

    pub fn stream(status: u16, stream: impl Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static) -> Self {
        Self { body: Body::Stream(StreamBody::new(stream).boxed_unsync()), ..Self::json(status, Bytes::new()) }
    }

    pub fn typed(self, content_type: &'static str) -> Self {
        Self { content_type, ..self }
    }

    pub fn etag(self, etag: &str) -> Self {
        Self { etag: Some(format!("\"{etag}\"")), ..self }
    }

    pub fn warn(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    /// The same answer as YAML, where it is whole and JSON.
    pub fn into_yaml(self) -> Self {
        let Body::Whole(bytes) = &self.body else { return self };
        let yaml = serde_json::from_slice::<Value>(bytes).ok().and_then(|v| serde_saphyr::to_string(&v).ok());
        match yaml {
            Some(yaml) if self.content_type == "application/json" => {
                Self { body: Body::Whole(yaml.into()), content_type: "application/yaml", ..self }
            }
            _ => self,
        }
    }

    pub fn into_response(self) -> Response<ResponseBody> {
        let mut response = Response::new(match self.body {
            Body::Whole(bytes) => Full::new(bytes).boxed_unsync(),
            Body::Stream(stream) => stream,
        });
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        if let Some(etag) = self.etag.and_then(|e| HeaderValue::from_str(&e).ok()) {
            headers.insert(header::ETAG, etag);
        }
        for warning in &self.warnings {
            // RFC 7234, 5.5: code, agent, quoted text
            let quoted = format!("299 - \"{}\"", warning.replace('\\', "\\\\").replace('"', "\\\""));
            if let Ok(value) = HeaderValue::from_str(&quoted) {
                headers.append(header::WARNING, value);
            }
        }
        response
    }
}
