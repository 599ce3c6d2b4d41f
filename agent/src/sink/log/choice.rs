//! Which flows are in the flow log.

use crate::sink::observer::filter::{Error, Filters};
use crate::sink::proto::observer::GetFlowsRequest;
use crate::sink::proto::observer::GetFlowsResponse;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// Flows that any filter to include lets pass (all, when there are none), and none to exclude.
#[derive(Default)]
pub struct Choice {
    include: Vec<Filters>,
    exclude: Vec<Filters>,
}

impl Choice {
    /// The choice by the filters of these requests.
    ///
    /// # Errors
    /// When a value is not of the form that its field wants.
    pub fn new(include: &[GetFlowsRequest], exclude: &[GetFlowsRequest]) -> Result<Self, Error> {
        let compile = |requests: &[GetFlowsRequest]| -> Result<Vec<_>, Error> {
            requests.iter().map(Filters::compile).collect()
        };
        Ok(Self {
            include: compile(include)?,
            exclude: compile(exclude)?,
        })
    }

    /// Whether a record belongs into the log.
    pub fn takes(&self, record: &GetFlowsResponse) -> bool {
        let Some(ResponseTypes::Flow(flow)) = &record.response_types else {
            return true;
        };
        let passes = |filters: &Filters| filters.pass(flow);
        (self.include.is_empty() || self.include.iter().any(passes))
            && !self.exclude.iter().any(passes)
    }
}
