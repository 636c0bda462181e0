//! Which path leads where.

use std::sync::Arc;

use axum::Router;
use axum::http::{Uri, header};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post, put};

use super::context::Control;
use super::error::ApiError;
use super::{activity, attach, disks, export, import, store, versions};

/// The API's description, as served at `/openapi.json`.
pub const OPENAPI_DOCUMENT: &str = include_str!("openapi.json");

type Route = (&'static str, &'static str, fn() -> MethodRouter<Arc<Control>>);

const TABLE: [Route; 25] = [
    ("get", "/openapi.json", || get(document)),
    ("get", "/v1/server", || get(store::server)),
    ("get", "/v1/status", || get(store::status)),
    ("get", "/v1/activity", || get(activity::activity)),
    ("get", "/metrics", || get(activity::metrics)),
    ("post", "/v1/grow", || post(store::grow)),
    ("post", "/v1/check", || post(store::check)),
    ("post", "/v1/scrub", || post(store::scrub)),
    ("get", "/v1/disks", || get(disks::list)),
    ("post", "/v1/disks", || post(disks::create)),
    ("post", "/v1/disks/{disk}/resize", || post(disks::resize)),
    ("post", "/v1/disks/{disk}/limits", || post(disks::set_limits)),
    ("put", "/v1/disks/{disk}/attachment", || put(attach::attach)),
    ("delete", "/v1/disks/{disk}/attachment", || delete(attach::detach)),
    ("post", "/v1/clones", || post(disks::clone_disks)),
    ("post", "/v1/rename", || post(disks::rename)),
    ("get", "/v1/tree", || get(versions::tree)),
    ("get", "/v1/versions/{version}", || get(versions::show)),
    ("get", "/v1/versions/{version}/content", || get(export::export)),
    ("post", "/v1/snapshots", || post(versions::snapshot)),
    ("post", "/v1/seal", || post(versions::seal)),
    ("post", "/v1/rollback", || post(versions::rollback)),
    ("post", "/v1/delete", || post(versions::delete)),
    ("get", "/v1/diff", || get(versions::diff)),
    ("post", "/v1/imports", || post(import::import)),
];

/// Every method and path there is.
#[cfg(test)]
pub const ROUTES: [(&str, &str); TABLE.len()] = {
    let mut routes = [("", ""); TABLE.len()];
    let mut index = 0;
    while index < TABLE.len() {
        routes[index] = (TABLE[index].0, TABLE[index].1);
        index += 1;
    }
    routes
};

/// The whole API over one opened store.
pub fn router(control: Arc<Control>) -> Router {
    let routes = TABLE.iter().fold(Router::new(), |router, (_, path, handler)| {
        // Methods of one path add up.
        router.route(path, handler())
    });
    routes.fallback(no_such_path).method_not_allowed_fallback(no_such_method).with_state(control)
}

async fn document() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI_DOCUMENT)
}

pub async fn no_such_path(uri: Uri) -> ApiError {
    ApiError::NoSuchPath { path: uri.path().to_owned() }
}

pub async fn no_such_method(uri: Uri) -> ApiError {
    ApiError::NoSuchMethod { path: uri.path().to_owned() }
}
