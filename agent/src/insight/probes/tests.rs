//! Probes from heads and flows to reports.

use super::*;
