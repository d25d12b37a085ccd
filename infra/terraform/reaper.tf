# The reaper: once a minute, heals what a crash or a lost message left behind, and deletes what finalized blocks no longer need.

module "reaper" {
  source      = "./modules/function"
  name        = "${var.prefix}-reaper"
  package     = "${var.packages}/reaper.zip"
  spec        = module.topology.functions["reaper"]
  sources     = local.sources["reaper"]
  shared      = local.function
  concurrency = 1
  policy      = data.aws_iam_policy_document.reaper.json
}

data "aws_iam_policy_document" "reaper" {
  statement {
    sid       = "Rows"
    actions   = ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:ConditionCheckItem"]
    resources = [local.table_arn]
  }
  statement {
    sid     = "Send"
    actions = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = concat(
      [for name in ["submissions.fifo", "finalized.fifo", "ranges", "timers"] : local.queue_arns[name]],
      [for name in flatten(values(local.work_queues)) : local.queue_arns[name]],
    )
  }
  # Where a timer was lost: whether what was sent still lies somewhere.
  statement {
    sid     = "Count"
    actions = ["sqs:GetQueueUrl", "sqs:GetQueueAttributes"]
    resources = flatten([
      for name in concat(["results", "verdicts", "ranges"], flatten(values(local.work_queues))) : [local.queue_arns[name], local.queue_arns["${name}-dlq"]]
    ])
  }
  statement {
    sid       = "LookAndDelete"
    actions   = ["s3:GetObject", "s3:DeleteObject"]
    resources = [local.prefix_arns["artifacts/"]]
  }
  # Of a witness all versions go. A batch chain's witness is a manifest, which is written here.
  statement {
    sid       = "Witnesses"
    actions   = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject", "s3:DeleteObjectVersion"]
    resources = [local.prefix_arns["witnesses/"]]
  }
  statement {
    sid       = "Stops"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]
    resources = [local.prefix_arns["control/"]]
  }
  # A proof is never deleted.
  statement {
    sid       = "Proofs"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["proofs/"]]
  }
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket"]
    resources = values(local.blobs)
  }
  statement {
    sid       = "ListVersions"
    actions   = ["s3:ListBucketVersions"]
    resources = [local.blobs["witnesses"]]
  }
}

resource "aws_cloudwatch_event_rule" "reaper" {
  name                = "${var.prefix}-reaper"
  description         = "push0's reaper, a turn"
  schedule_expression = module.topology.functions["reaper"].every_s == 60 ? "rate(1 minute)" : "rate(${floor(module.topology.functions["reaper"].every_s / 60)} minutes)"
  tags                = local.tags
}

resource "aws_cloudwatch_event_target" "reaper" {
  rule = aws_cloudwatch_event_rule.reaper.name
  arn  = module.reaper.arn

  # A turn that could not be begun is not made up for: the next one is a minute away.
  retry_policy {
    maximum_event_age_in_seconds = 60
    maximum_retry_attempts       = 0
  }
}

resource "aws_lambda_permission" "reaper" {
  statement_id  = "schedule"
  action        = "lambda:InvokeFunction"
  function_name = module.reaper.name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.reaper.arn
}
