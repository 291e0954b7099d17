//! An answer to a client of HTTP/1.0, out of one over HTTP/2.
//!
//! Pingora adds chunks to an HTTP/2 response without a length, after the hooks, for any client. RFC
//! 9112, section 6.1: a client of HTTP/1.0 knows none. A module sees it last; requests of such
//! clients alone have one.

use std::any::Any;

use async_trait::async_trait;
use http::header::TRANSFER_ENCODING;
use pingora::Result;
use pingora::http::ResponseHeader;
use pingora::modules::http::{HttpModule, HttpModuleBuilder, HttpModuleCtx, HttpModules, Module};

struct UntilClose;

/// What takes the chunks off. The answer ends with the connection.
pub(super) fn modules() -> HttpModuleCtx {
    let mut modules = HttpModules::new();
    modules.add_module(Box::new(UntilClose));
    modules.build_ctx()
}

impl HttpModuleBuilder for UntilClose {
    fn init(&self) -> Module {
        Box::new(UntilClose)
    }
}

#[async_trait]
impl HttpModule for UntilClose {
    async fn response_header_filter(&mut self, header: &mut ResponseHeader, _: bool) -> Result<()> {
        header.remove_header(&TRANSFER_ENCODING);
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}
