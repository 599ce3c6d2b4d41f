//! Who may ask: whoever shows the bearer token.

use std::sync::{PoisonError, RwLock};

use axum::http::{HeaderMap, header};

use super::status::Status;

/// The token that requests must carry.
#[derive(Debug)]
pub struct Auth {
    token: RwLock<String>,
}

impl Auth {
    /// Takes requests with this token only.
    pub fn new(token: &str) -> Self {
        Self {
            token: RwLock::new(token.to_owned()),
        }
    }

    /// The token in force.
    pub fn token(&self) -> String {
        self.token
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Puts another token in force, as when a service account's token is rotated.
    pub fn set_token(&self, token: &str) {
        token.clone_into(&mut self.token.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Checks a request's headers.
    ///
    /// # Errors
    /// 401 where the token is missing or another one.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Status> {
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok());
        let (scheme, token) = given.and_then(|v| v.split_once(' ')).unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") && token.trim() == self.token() {
            Ok(())
        } else {
            Err(Status::unauthorized())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_token_in_force() {
        let auth = Auth::new("secret");
        let code = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            auth.check(&headers).map_err(|s| s.code)
        };
        assert_eq!(code("Bearer secret"), Ok(()));
        assert_eq!(code("bearer secret"), Ok(()));
        for wrong in ["Bearer other", "Basic secret", "secret", "Bearer"] {
            assert_eq!(code(wrong), Err(401), "{wrong}");
        }
        assert_eq!(auth.check(&HeaderMap::new()).unwrap_err().code, 401);
        auth.set_token("next");
        assert_eq!(
            (code("Bearer secret"), code("Bearer next")),
            (Err(401), Ok(()))
        );
    }
}
