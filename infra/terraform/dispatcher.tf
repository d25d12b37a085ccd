# The dispatcher: admits blocks, releases them in their chain's order, finalizes them.

module "dispatcher" {
  source      = "./modules/function"
  name        = "${var.prefix}-dispatcher"
  package     = "${var.packages}/dispatcher.zip"
  spec        = module.topology.functions["dispatcher"]
  sources     = local.sources["dispatcher"]
  shared      = local.function
  concurrency = var.concurrency
  policy      = data.aws_iam_policy_document.dispatcher.json
}

data "aws_iam_policy_document" "dispatcher" {
  statement {
    sid       = "Rows"
    actions   = ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:ConditionCheckItem"]
    resources = [local.table_arn]
  }
  statement {
    sid     = "Send"
    actions = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = concat(
      # Ranges: what is left of a demoted block goes to another class.
      [for name in ["submissions.fifo", "finalized.fifo", "ranges", "timers", "poison"] : local.queue_arns[name]],
      # A released block's split.
      [for name in local.work_queues[local.trusted] : local.queue_arns[name]],
    )
  }
  # A batch chain's witness is a manifest, which is written here.
  statement {
    sid       = "Witnesses"
    actions   = ["s3:GetObject", "s3:GetObjectVersion", "s3:PutObject"]
    resources = [local.prefix_arns["witnesses/"]]
  }
  # Without it what is missing looks like what is forbidden.
  statement {
    sid       = "TellMissingFromForbidden"
    actions   = ["s3:ListBucket"]
    resources = values(local.blobs)
  }
  statement {
    sid       = "Stops"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["control/"]]
  }
  statement {
    sid       = "Proofs"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["proofs/"]]
  }
}
