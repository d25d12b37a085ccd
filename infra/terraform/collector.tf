# The collector: takes workers' reports, and sends what becomes ready by them.

module "collector" {
  source      = "./modules/function"
  name        = "${var.prefix}-collector"
  package     = "${var.packages}/collector.zip"
  spec        = module.topology.functions["collector"]
  sources     = local.sources["collector"]
  shared      = local.function
  concurrency = var.concurrency
  recursive   = true
  policy      = data.aws_iam_policy_document.collector.json
}

data "aws_iam_policy_document" "collector" {
  statement {
    sid       = "Rows"
    actions   = ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem"]
    resources = [local.table_arn]
  }
  statement {
    sid     = "Send"
    actions = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = concat(
      # A block whose root is verified becomes final by the collector, and releases the next.
      [for name in ["submissions.fifo", "finalized.fifo", "ranges", "timers", "poison"] : local.queue_arns[name]],
      [for name in flatten(values(local.work_queues)) : local.queue_arns[name]],
    )
  }
  # A timer looks whether a task still lies in its queue.
  statement {
    sid       = "Count"
    actions   = ["sqs:GetQueueAttributes"]
    resources = [for name in flatten(values(local.work_queues)) : local.queue_arns[name]]
  }
  statement {
    sid       = "Blobs"
    actions   = ["s3:GetObject"]
    resources = [local.prefix_arns["artifacts/"]]
  }
  statement {
    sid       = "StopsAndProofs"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["control/"], local.prefix_arns["proofs/"]]
  }
  # Without it what is missing looks like what is forbidden.
  statement {
    sid       = "TellMissingFromForbidden"
    actions   = ["s3:ListBucket"]
    resources = values(local.blobs)
  }
}
