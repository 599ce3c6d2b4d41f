//! What clients count on: each form of request, and what streams carry besides flows.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use prost_types::FieldMask;

use super::served::{PATIENCE, Served, Tested, flow, second};
use crate::flow::{Event, Flow};
use crate::sink::fixture::{at, pod_to_pod};
use crate::sink::observer::structs;
use crate::sink::proto::flow::{EventTypeFilter, FlowFilter, LostEventSource, Verdict};
use crate::sink::proto::observer::GetFlowsRequest;
use crate::sink::proto::observer::get_flows_response::ResponseTypes;

/// A server with flows of the seconds 0 to 8.
async fn served() -> anyhow::Result<Served> {
    let served = Served::start(16).await?;
    served.observer.push((0..9).map(flow));
    Ok(served)
}

fn pods(end: fn(&mut FlowFilter) -> &mut Vec<String>, pod: &str) -> FlowFilter {
    let mut filter = FlowFilter::default();
    end(&mut filter).push(pod.to_owned());
    filter
}

#[tokio::test]
async fn the_forms_of_request_of_the_stock_client() -> Tested {
    let served = served().await?;
    let request = GetFlowsRequest::default;
    let all: Vec<u64> = (0..9).collect();
    for (form, asked, wanted) in [
        (
            "none",
            GetFlowsRequest {
                number: 20,
                ..request()
            },
            &all[..],
        ),
        (
            "--last 2",
            GetFlowsRequest {
                number: 2,
                ..request()
            },
            &all[7..],
        ),
        (
            "--first 2",
            GetFlowsRequest {
                number: 2,
                first: true,
                ..request()
            },
            &all[..2],
        ),
        (
            "--all",
            GetFlowsRequest {
                number: u64::MAX,
                ..request()
            },
            &all[..],
        ),
        (
            "--since",
            GetFlowsRequest {
                since: Some(at(6).into()),
                ..request()
            },
            &all[6..],
        ),
        (
            "--since --last 1",
            GetFlowsRequest {
                number: 1,
                since: Some(at(6).into()),
                ..request()
            },
            &all[6..],
        ),
        (
            "--until --last 2",
            GetFlowsRequest {
                number: 2,
                until: Some(at(4).into()),
                ..request()
            },
            &all[3..5],
        ),
        (
            "--since --until",
            GetFlowsRequest {
                since: Some(at(2).into()),
                until: Some(at(4).into()),
                ..request()
            },
            &all[2..5],
        ),
        (
            "--first 2 --since",
            GetFlowsRequest {
                number: 2,
                first: true,
                since: Some(at(5).into()),
                ..request()
            },
            &all[5..7],
        ),
        // What was asked to be live and to end in the past has ended.
        (
            "--follow --until",
            GetFlowsRequest {
                follow: true,
                until: Some(at(4).into()),
                ..request()
            },
            &[],
        ),
        (
            "--follow --since --until",
            GetFlowsRequest {
                follow: true,
                since: Some(at(3).into()),
                until: Some(at(4).into()),
                ..request()
            },
            &all[3..5],
        ),
    ] {
        let got = tokio::time::timeout(PATIENCE, served.ask(asked)).await;
        assert_eq!(got.with_context(|| form.to_owned())??, wanted, "{form}");
    }
    served.stop().await
}

#[tokio::test]
async fn follow_is_live_only_unless_since_or_a_number_rewinds() -> Tested {
    for (since, number, first) in [(None, 0, 9), (Some(7), 0, 7), (None, 3, 6)] {
        let served = served().await?;
        let request = GetFlowsRequest {
            number,
            follow: true,
            since: since.map(|second| at(second).into()),
            ..GetFlowsRequest::default()
        };
        let mut client = served.client().await?;
        let mut stream = client.get_flows(request).await?.into_inner();
        // The answer's head comes when the stream has begun: what is pushed now is live.
        served.observer.push((9..11).map(flow));
        for wanted in first..11 {
            let response = tokio::time::timeout(PATIENCE, stream.message()).await??;
            assert_eq!(
                second(&response.context("ended")?)?,
                wanted,
                "{since:?} {number}"
            );
        }
        drop((stream, client));
        served.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn either_end_is_two_filters_and_what_is_denied_is_left_out() -> Tested {
    let served = served().await?;
    let from = pods(|filter| &mut filter.source_pod, "shop/web");
    let to = pods(|filter| &mut filter.destination_pod, "shop/web");
    let request = GetFlowsRequest {
        number: 20,
        whitelist: vec![from.clone(), to.clone()],
        ..GetFlowsRequest::default()
    };
    let all: Vec<u64> = (0..9).collect();
    assert_eq!(served.ask(request.clone()).await?, all);
    // Pings go to the pod, everything else comes from it.
    let one_end = GetFlowsRequest {
        whitelist: vec![to.clone()],
        ..request.clone()
    };
    assert_eq!(served.ask(one_end).await?, [2, 5, 8]);
    let denied = GetFlowsRequest {
        blacklist: vec![to],
        ..request
    };
    assert_eq!(served.ask(denied).await?, [0, 1, 3, 4, 6, 7]);
    served.stop().await
}

#[tokio::test]
async fn a_drop_has_no_reply_flag_and_counts_as_no_reply() -> Tested {
    let served = Served::start(4).await?;
    let mut lost = pod_to_pod();
    lost.event = Event::Drop;
    lost.time = at(1);
    served.observer.push([flow(0), Arc::new(lost)]);
    let asking = |filter: FlowFilter| GetFlowsRequest {
        whitelist: vec![filter],
        ..GetFlowsRequest::default()
    };
    let event = |kind| FlowFilter {
        event_type: vec![EventTypeFilter {
            r#type: kind,
            ..EventTypeFilter::default()
        }],
        ..FlowFilter::default()
    };
    let reply = |reply| FlowFilter {
        reply: vec![reply],
        ..FlowFilter::default()
    };
    let dropped = FlowFilter {
        verdict: vec![Verdict::Dropped.into()],
        ..FlowFilter::default()
    };
    for (filter, wanted) in [
        (dropped, vec![1]),
        // Type 1 is a drop, 4 a trace.
        (event(1), vec![1]),
        (event(4), vec![0]),
        (reply(false), vec![0, 1]),
        (reply(true), vec![]),
    ] {
        assert_eq!(
            served.ask(asking(filter.clone())).await?,
            wanted,
            "{filter:?}"
        );
    }
    served.stop().await
}

#[tokio::test]
async fn every_record_has_an_id_to_ask_for_and_a_struct_as_its_extensions() -> Tested {
    let served = served().await?;
    let request = GetFlowsRequest {
        number: 20,
        // What the stock client's table asks for; the answer may have more.
        field_mask: Some(FieldMask {
            paths: vec!["time".into(), "source.identity".into(), "IP".into()],
        }),
        ..GetFlowsRequest::default()
    };
    let mut client = served.client().await?;
    let mut stream = client.get_flows(request.clone()).await?.into_inner();
    let mut ids = Vec::new();
    while let Some(response) = stream.message().await? {
        assert_eq!(response.node_name, "node-1");
        let Some(ResponseTypes::Flow(flow)) = response.response_types else {
            bail!("no flow")
        };
        assert_eq!(response.time, flow.time);
        assert!(!flow.summary.is_empty() && flow.verdict() == Verdict::Forwarded);
        let extensions = flow.extensions.context("no extensions")?;
        assert_eq!(extensions.type_url, structs::STRUCT_URL);
        ids.push(flow.uuid);
    }
    assert_eq!(ids.len(), 9);
    let one = FlowFilter {
        uuid: vec![ids[4].clone()],
        ..FlowFilter::default()
    };
    let request = GetFlowsRequest {
        whitelist: vec![one],
        ..request
    };
    assert_eq!(served.ask(request).await?, [4]);
    drop((stream, client));
    served.stop().await
}

#[tokio::test]
async fn flows_are_in_order_of_time_though_the_clock_was_set_back() -> Tested {
    let served = Served::start(16).await?;
    served.observer.push([4, 5, 3, 6, 2].map(flow));
    let request = GetFlowsRequest {
        number: 4,
        ..GetFlowsRequest::default()
    };
    // The newest four are those that came last.
    assert_eq!(served.ask(request).await?, [2, 3, 5, 6]);
    served.stop().await
}

#[tokio::test]
async fn what_is_lost_passes_every_filter_and_holds_up_nobody_else() -> Tested {
    const FLOWS: u64 = 20_000;
    let served = Served::start(8).await?;
    let nothing = FlowFilter {
        source_pod: vec!["nowhere/".to_owned()],
        ..FlowFilter::default()
    };
    let request = |whitelist| GetFlowsRequest {
        follow: true,
        whitelist,
        ..GetFlowsRequest::default()
    };
    let mut slow = served.client().await?;
    let mut slow = slow.get_flows(request(vec![])).await?.into_inner();
    // All at once: no stream gets a turn meanwhile, and none is waited for.
    served.observer.push((0..FLOWS).map(flow));
    let mut filtered = served.client().await?;
    let mut filtered = filtered
        .get_flows(request(vec![nothing]))
        .await?
        .into_inner();
    served.observer.push((0..FLOWS).map(flow));
    let told = tokio::time::timeout(PATIENCE, filtered.message()).await??;
    let Some(ResponseTypes::LostEvents(lost)) = told.context("ended")?.response_types else {
        bail!("not told what was lost")
    };
    assert_eq!(lost.source(), LostEventSource::HubbleRingBuffer);
    assert_eq!(lost.num_events_lost, FLOWS - 8);
    let (mut got, mut missed) = (0, 0);
    while got + missed < 2 * FLOWS {
        let response = tokio::time::timeout(PATIENCE, slow.message()).await??;
        match response.context("ended")?.response_types {
            Some(ResponseTypes::Flow(_)) => got += 1,
            Some(ResponseTypes::LostEvents(event)) => missed += event.num_events_lost,
            other => bail!("neither a flow nor lost ones: {other:?}"),
        }
    }
    assert_eq!(got + missed, 2 * FLOWS);
    assert_eq!(served.observer.missed(), missed + FLOWS - 8);
    served.stop().await
}

#[test]
fn pushing_takes_no_reader() {
    let observer = super::served::observer(4, None);
    observer.push((0..9).map(flow));
    assert_eq!(observer.missed(), 0);
    let flows: Vec<Arc<Flow>> = observer.snapshot().items;
    assert_eq!(flows.len(), 4);
}
