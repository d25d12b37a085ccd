//! The policies of every role, as Terraform would write them, by the emulator's policy simulation: a second reading, by other people, of how
//! policies are evaluated.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::rc::Rc;

use push0_infra_check::{INSTALLATION, Judgement, Schema, Tree, judgements};
use push0_runtime::aws::emulator;

/// What `SimulateCustomPolicy` says of these actions on a resource: whether each is allowed, in their order.
fn simulate(policies: &[String], actions: &[&str], resource: &str) -> Vec<bool> {
    let mut fields = vec![
        ("Action".to_owned(), "SimulateCustomPolicy"),
        ("Version".to_owned(), "2010-05-08"),
        ("ResourceArns.member.1".to_owned(), resource),
    ];
    fields.extend(
        (1..).zip(policies).map(|(number, policy)| (format!("PolicyInputList.member.{number}"), policy.as_str())),
    );
    fields.extend((1..).zip(actions).map(|(number, action)| (format!("ActionNames.member.{number}"), *action)));
    let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", escaped(value))).collect();
    let answer = post(&fields.join("&"));
    let decisions: Vec<&str> =
        answer.split("<EvalDecision>").skip(1).filter_map(|rest| rest.split('<').next()).collect();
    assert_eq!(decisions.len(), actions.len(), "{answer}");
    let is_allowed = |decision: &&str| match *decision {
        "allowed" => true,
        "explicitDeny" | "implicitDeny" => false,
        other => panic!("a decision {other}"),
    };
    decisions.iter().map(is_allowed).collect()
}

fn escaped(text: &str) -> String {
    let byte = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(byte).collect()
}

fn post(form: &str) -> String {
    let url = emulator::ministack();
    let host = url.strip_prefix("http://").expect("it listens on loopback");
    let mut stream = TcpStream::connect(host).expect("it is there");
    // It goes by the service that a signature is for, and looks no further.
    let scope = format!("{}/20260101/us-east-1/iam/aws4_request", emulator::account());
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\nContent-Length: {}\r\n\r\n",
        form.len()
    );
    stream.write_all(head.as_bytes()).expect("it reads");
    stream.write_all(form.as_bytes()).expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

#[test]
fn the_emulator_s_simulation_decides_as_the_checks_of_infra_do() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let schema = std::fs::read_to_string(repository.join("infra/check/aws-schema.json")).unwrap();
    let schema = Rc::new(Schema::parse(&schema).unwrap());
    let judgements = judgements(Tree::of_repository(&repository).unwrap(), &schema, INSTALLATION).unwrap();
    assert!(judgements.len() >= 5, "{} roles", judgements.len());
    let (mut allowed, mut refused, mut wrong) = (0, 0, Vec::new());
    for Judgement { role, policies, decisions } in &judgements {
        let mut by_resource: BTreeMap<&str, Vec<(&str, bool)>> = BTreeMap::new();
        for ((action, resource), is_allowed) in decisions {
            by_resource.entry(resource).or_default().push((action, *is_allowed));
        }
        for (resource, decisions) in by_resource {
            let actions: Vec<&str> = decisions.iter().map(|(action, _)| *action).collect();
            for ((action, here), there) in decisions.iter().zip(simulate(policies, &actions, resource)) {
                if *here {
                    allowed += 1
                } else {
                    refused += 1
                }
                if *here != there {
                    wrong.push(format!("{role}: {action} on {resource}: allowed here {here}, there {there}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(allowed > 200 && refused > 200, "{allowed} allowed, {refused} refused");
}
