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
    actions   = ["dynamodb:GetItem", "dynamodb:Query", "dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem", "dynamodb:ConditionCheckItem"]
    resources = [local.table_arn]
  }
  statement {
    sid     = "Send"
    actions = ["sqs:SendMessage", "sqs:GetQueueUrl"]
    resources = concat(
      [for name in ["submissions.fifo", "finalized.fifo", "timers", "poison"] : local.queue_arns[name]],
      # A released block's split, and the rest of a run that is begun anew.
      [for name in flatten(values(local.work_queues)) : local.queue_arns[name]],
    )
  }
  statement {
    sid       = "Witnesses"
    actions   = ["s3:GetObject", "s3:GetObjectVersion"]
    resources = [local.prefix_arns["witnesses/"]]
  }
  statement {
    sid       = "FindUploads"
    actions   = ["s3:ListBucket", "s3:ListBucketVersions"]
    resources = [local.blobs["witnesses"]]
  }
  statement {
    sid       = "StopsAndPlans"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["control/"]]
  }
  statement {
    sid       = "Proofs"
    actions   = ["s3:GetObject", "s3:PutObject"]
    resources = [local.prefix_arns["proofs/"]]
  }
}
