//! What AWS makes of a name: ARNs, URLs, ids. In one made-up account and region, so that policies can be compared with what they are about.

use crate::module::Kind;
use crate::plan::Resource;
use crate::policy;

pub const ACCOUNT: &str = "123456789012";
pub const REGION: &str = "eu-central-1";

/// An attribute that follows from what is written; none where only AWS knows.
pub(crate) fn computed(resource: &Resource, attribute: &str) -> Option<String> {
    if resource.kind == Kind::Data {
        return of_data(resource, attribute);
    }
    let (name, arn, id) = names(resource)?;
    match attribute {
        "arn" => Some(arn),
        "id" | "url" => Some(id),
        "invoke_arn" if resource.type_name == "aws_lambda_function" => Some(arn),
        "name" | "bucket" | "function_name" => Some(name),
        _ => None,
    }
}

fn names(resource: &Resource) -> Option<(String, String, String)> {
    let here = |service: &str, rest: String| format!("arn:aws:{service}:{REGION}:{ACCOUNT}:{rest}");
    let text = |field: &str| resource.text(field);
    let name = text("name").or_else(|| text("name_prefix"));
    Some(match resource.type_name.as_str() {
        "aws_sqs_queue" => {
            let name = name?;
            (name.clone(), here("sqs", name.clone()), format!("https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{name}"))
        }
        "aws_dynamodb_table" => {
            let name = name?;
            (name.clone(), here("dynamodb", format!("table/{name}")), name)
        }
        "aws_s3_bucket" => {
            let name = text("bucket").or_else(|| text("bucket_prefix"))?;
            (name.clone(), format!("arn:aws:s3:::{name}"), name)
        }
        "aws_lambda_function" => {
            let name = text("function_name")?;
            (name.clone(), here("lambda", format!("function:{name}")), name)
        }
        "aws_iam_role" | "aws_iam_instance_profile" | "aws_iam_policy" => {
            let name = name?;
            let path = text("path").unwrap_or("/".to_owned());
            let kind = resource.type_name.trim_start_matches("aws_iam_").replace('_', "-");
            (name.clone(), format!("arn:aws:iam::{ACCOUNT}:{kind}{path}{name}"), name)
        }
        "aws_autoscaling_group" => {
            let name = name?;
            (name.clone(), here("autoscaling", format!("autoScalingGroup:*:autoScalingGroupName/{name}")), name)
        }
        "aws_cloudwatch_log_group" => {
            let name = name?;
            (name.clone(), here("logs", format!("log-group:{name}")), name)
        }
        "aws_cloudwatch_event_rule" => {
            let name = name?;
            (name.clone(), here("events", format!("rule/{name}")), name)
        }
        "aws_sns_topic" => {
            let name = name?;
            (name.clone(), here("sns", name.clone()), here("sns", name))
        }
        "aws_cloudwatch_metric_alarm" => {
            let name = text("alarm_name")?;
            (name.clone(), here("cloudwatch", format!("alarm:{name}")), name)
        }
        _ => return None,
    })
}

fn of_data(data: &Resource, attribute: &str) -> Option<String> {
    Some(match (data.type_name.as_str(), attribute) {
        ("aws_caller_identity", "account_id" | "id") => ACCOUNT.to_owned(),
        ("aws_region", "name" | "region" | "id") => REGION.to_owned(),
        ("aws_partition", "partition" | "id") => "aws".to_owned(),
        ("aws_partition", "dns_suffix") => "amazonaws.com".to_owned(),
        ("aws_iam_policy_document", "json" | "minified_json") => policy::render(&data.arguments).to_string(),
        _ => return None,
    })
}
