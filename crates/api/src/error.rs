//! Every way in which a request can fail, its HTTP status and its OpenAI error body.

use serde::Serialize;

/// Why a request was refused or broke off. Front ends turn it into a response in one place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 400: a field is missing, of the wrong type or out of range, or asks for what this server cannot do.
    #[error("{message}")]
    InvalidRequest {
        /// What is wrong, in a sentence.
        message: String,
        /// The field, as a path (`messages[0].role`).
        param: Option<String>,
        /// A stable word for programs.
        code: Option<&'static str>,
    },
    /// 400: prompt and answer do not fit the model's context.
    #[error("{message}")]
    ContextLengthExceeded {
        /// What does not fit, with both numbers.
        message: String,
        /// The field that holds the prompt.
        param: &'static str,
    },
    /// 401: no key, or one that this server does not know.
    #[error("{0}")]
    InvalidApiKey(String),
    /// 403: we know who asks, and may not give it to them.
    #[error("{message}")]
    PermissionDenied {
        /// What they may not, in a sentence.
        message: String,
        /// The field that is to blame.
        param: Option<&'static str>,
        /// A stable word for programs.
        code: &'static str,
    },
    /// 404: the request names a model that is not served here.
    #[error("the model {model:?} does not exist; this server has {available:?}")]
    ModelNotFound {
        /// The name in the request.
        model: String,
        /// The name that is served.
        available: String,
    },
    /// 404: no such path.
    #[error("no such endpoint: {method} {path}")]
    NotFound {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// 405: the path exists, with another method.
    #[error("{path} does not accept {method}")]
    MethodNotAllowed {
        /// The request's method.
        method: String,
        /// The request's path.
        path: String,
    },
    /// 408: the request's body did not arrive in time.
    #[error("the request body did not arrive within {seconds} s")]
    BodyTimeout {
        /// The limit.
        seconds: u64,
    },
    /// 413: the request's body is larger than this server reads.
    #[error("the request body is larger than the limit of {limit} bytes")]
    BodyTooLarge {
        /// The limit.
        limit: u64,
    },
    /// 429: the waiting queue is full.
    #[error("the server is at its limit of waiting requests; try again in {retry_after_seconds} s")]
    Overloaded {
        /// The `Retry-After` header.
        retry_after_seconds: u32,
    },
    /// 429: the caller, or everybody together, asks for more than the limit in this time.
    #[error("{message}")]
    RateLimited {
        /// Which limit, and when there is room again, in a sentence.
        message: String,
        /// What is counted: `requests` or `tokens`.
        counted: &'static str,
        /// The `Retry-After` header.
        retry_after_seconds: u32,
    },
    /// 429: the caller's budget is used up; trying again soon does not help.
    #[error("{message}")]
    InsufficientQuota {
        /// Which budget, and when it is renewed, in a sentence.
        message: String,
        /// The `Retry-After` header.
        retry_after_seconds: u32,
    },
    /// 503: loading, draining or out of order; another replica may answer.
    #[error("{reason}")]
    Unavailable {
        /// Why, in a sentence.
        reason: String,
        /// The `Retry-After` header.
        retry_after_seconds: u32,
    },
    /// 502: the model server failed, and no other could be asked.
    #[error("{0}")]
    BadGateway(String),
    /// 504: the model server did not answer in time.
    #[error("{0}")]
    GatewayTimeout(String),
    /// 500: our fault.
    #[error("{0}")]
    Internal(String),
}

/// The body of an error response and of an SSE error event: `{"error": {…}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    /// The only member.
    pub error: ErrorDetail,
}

/// What OpenAI clients read from an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorDetail {
    /// What is wrong, in a sentence.
    pub message: String,
    /// The class of error.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The field that is to blame.
    pub param: Option<String>,
    /// A stable word for programs.
    pub code: Option<&'static str>,
}

impl ApiError {
    /// A 400 that names the field.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::InvalidRequest { message: message.into(), param: Some(param.into()), code: None }
    }

    /// A 400 for a field that is understood and not honoured, so that nobody believes it was.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::InvalidRequest {
            message: message.into(),
            param: Some(param.into()),
            code: Some("unsupported"),
        }
    }

    /// The HTTP status code.
    pub fn status(&self) -> u16 {
        match self {
            ApiError::InvalidRequest { .. } | ApiError::ContextLengthExceeded { .. } => 400,
            ApiError::InvalidApiKey(_) => 401,
            ApiError::PermissionDenied { .. } => 403,
            ApiError::ModelNotFound { .. } | ApiError::NotFound { .. } => 404,
            ApiError::MethodNotAllowed { .. } => 405,
            ApiError::BodyTimeout { .. } => 408,
            ApiError::BodyTooLarge { .. } => 413,
            ApiError::Overloaded { .. }
            | ApiError::RateLimited { .. }
            | ApiError::InsufficientQuota { .. } => 429,
            ApiError::Unavailable { .. } => 503,
            ApiError::BadGateway(_) => 502,
            ApiError::GatewayTimeout(_) => 504,
            ApiError::Internal(_) => 500,
        }
    }

    /// Seconds for the `Retry-After` header, where trying again makes sense.
    pub fn retry_after_seconds(&self) -> Option<u32> {
        match self {
            ApiError::Overloaded { retry_after_seconds }
            | ApiError::RateLimited { retry_after_seconds, .. }
            | ApiError::InsufficientQuota { retry_after_seconds, .. }
            | ApiError::Unavailable { retry_after_seconds, .. } => Some(*retry_after_seconds),
            ApiError::InvalidRequest { .. }
            | ApiError::ContextLengthExceeded { .. }
            | ApiError::InvalidApiKey(_)
            | ApiError::PermissionDenied { .. }
            | ApiError::ModelNotFound { .. }
            | ApiError::NotFound { .. }
            | ApiError::MethodNotAllowed { .. }
            | ApiError::BodyTimeout { .. }
            | ApiError::BodyTooLarge { .. }
            | ApiError::BadGateway(_)
            | ApiError::GatewayTimeout(_)
            | ApiError::Internal(_) => None,
        }
    }

    /// The class of error, in OpenAI's words.
    pub fn kind(&self) -> &'static str {
        match self {
            ApiError::InvalidRequest { .. }
            | ApiError::ContextLengthExceeded { .. }
            | ApiError::ModelNotFound { .. }
            | ApiError::NotFound { .. }
            | ApiError::MethodNotAllowed { .. }
            | ApiError::BodyTimeout { .. }
            | ApiError::BodyTooLarge { .. } => "invalid_request_error",
            ApiError::InvalidApiKey(_) => "authentication_error",
            ApiError::PermissionDenied { .. } => "permission_denied",
            ApiError::Overloaded { .. } => "rate_limit_error",
            ApiError::RateLimited { counted, .. } => counted,
            ApiError::InsufficientQuota { .. } => "insufficient_quota",
            ApiError::Unavailable { .. } => "service_unavailable",
            ApiError::BadGateway(_) | ApiError::GatewayTimeout(_) | ApiError::Internal(_) => "server_error",
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            ApiError::InvalidRequest { code, .. } => *code,
            ApiError::ContextLengthExceeded { .. } => Some("context_length_exceeded"),
            ApiError::InvalidApiKey(_) => Some("invalid_api_key"),
            ApiError::PermissionDenied { code, .. } => Some(code),
            ApiError::ModelNotFound { .. } => Some("model_not_found"),
            ApiError::NotFound { .. } => Some("not_found"),
            ApiError::MethodNotAllowed { .. } => Some("method_not_allowed"),
            ApiError::BodyTimeout { .. } => Some("request_timeout"),
            ApiError::BodyTooLarge { .. } => Some("request_too_large"),
            ApiError::Overloaded { .. } => Some("queue_full"),
            ApiError::RateLimited { .. } => Some("rate_limit_exceeded"),
            ApiError::InsufficientQuota { .. } => Some("insufficient_quota"),
            ApiError::Unavailable { .. } => Some("unavailable"),
            ApiError::BadGateway(_) => Some("bad_gateway"),
            ApiError::GatewayTimeout(_) => Some("gateway_timeout"),
            ApiError::Internal(_) => Some("internal_error"),
        }
    }

    /// The body to send.
    pub fn body(&self) -> ErrorBody {
        let param = match self {
            ApiError::InvalidRequest { param, .. } => param.clone(),
            ApiError::ContextLengthExceeded { param, .. } => Some((*param).to_owned()),
            ApiError::ModelNotFound { .. } => Some("model".to_owned()),
            ApiError::PermissionDenied { param, .. } => param.map(str::to_owned),
            ApiError::InvalidApiKey(_)
            | ApiError::NotFound { .. }
            | ApiError::MethodNotAllowed { .. }
            | ApiError::BodyTimeout { .. }
            | ApiError::BodyTooLarge { .. }
            | ApiError::Overloaded { .. }
            | ApiError::RateLimited { .. }
            | ApiError::InsufficientQuota { .. }
            | ApiError::Unavailable { .. }
            | ApiError::BadGateway(_)
            | ApiError::GatewayTimeout(_)
            | ApiError::Internal(_) => None,
        };
        ErrorBody {
            error: ErrorDetail { message: self.to_string(), kind: self.kind(), param, code: self.code() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_have_the_four_members_that_clients_read() {
        let error = ApiError::invalid("temperature", "temperature must be at least 0, got -1");
        let json = serde_json::to_string(&error.body()).unwrap();
        expect_test::expect![[
            r#"{"error":{"message":"temperature must be at least 0, got -1","type":"invalid_request_error","param":"temperature","code":null}}"#
        ]]
        .assert_eq(&json);
    }

    #[test]
    fn only_errors_that_pass_say_when_to_retry() {
        let unavailable = ApiError::Unavailable { reason: "draining".into(), retry_after_seconds: 5 };
        assert_eq!((unavailable.status(), unavailable.retry_after_seconds()), (503, Some(5)));
        let overloaded = ApiError::Overloaded { retry_after_seconds: 1 };
        assert_eq!((overloaded.status(), overloaded.retry_after_seconds()), (429, Some(1)));
        assert_eq!(ApiError::Internal("x".into()).retry_after_seconds(), None);
    }

    #[test]
    fn limits_and_budgets_have_the_words_that_clients_look_for() {
        let message = || "too much".to_owned();
        let limited = ApiError::RateLimited { message: message(), counted: "tokens", retry_after_seconds: 7 };
        assert_eq!((limited.status(), limited.retry_after_seconds()), (429, Some(7)));
        assert_eq!((limited.kind(), limited.code()), ("tokens", Some("rate_limit_exceeded")));
        let spent = ApiError::InsufficientQuota { message: message(), retry_after_seconds: 60 };
        assert_eq!((spent.status(), spent.retry_after_seconds()), (429, Some(60)));
        assert_eq!((spent.kind(), spent.code()), ("insufficient_quota", Some("insufficient_quota")));
        let code = "model_not_allowed";
        let denied = ApiError::PermissionDenied { message: message(), param: Some("model"), code };
        assert_eq!((denied.status(), denied.body().error.param.as_deref()), (403, Some("model")));
    }
}
