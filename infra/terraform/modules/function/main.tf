# A Lambda function of push0: program, role, log, sources.

terraform {
  required_providers {
    aws = {
      source = "hashicorp/aws"
    }
  }
}

variable "name" {
  description = "Its name in the account."
  type        = string
}

variable "package" {
  description = "Its zip."
  type        = string
}

variable "spec" {
  description = "What the topology says of it."
  type = object({
    timeout_s  = number
    memory_mib = number
  })
}

variable "sources" {
  description = "Queues it takes from, by name: ARN, most messages at a time, provisioned pollers (0: none)."
  type = map(object({
    arn     = string
    batch   = number
    pollers = number
  }))
}

variable "shared" {
  description = "What is the same for all functions of an installation."
  type = object({
    architecture = string
    layers       = list(string)
    environment  = map(string)
    log_days     = number
    kms_key      = string
    tags         = map(string)
  })
}

variable "concurrency" {
  description = "Concurrent invocations kept for it; null: none are kept, none forbidden."
  type        = number
}

variable "recursive" {
  description = "Whether it sends to queues that invoke it again, on purpose."
  type        = bool
  default     = false
}

variable "policy" {
  description = "What it may do beside taking from its sources and writing its log, as JSON."
  type        = string
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["lambda.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  name               = var.name
  assume_role_policy = data.aws_iam_policy_document.assume.json
  tags               = var.shared.tags
}

resource "aws_iam_role_policy" "work" {
  name   = "work"
  role   = aws_iam_role.this.id
  policy = var.policy
}

data "aws_iam_policy_document" "run" {
  statement {
    sid       = "Log"
    actions   = ["logs:CreateLogStream", "logs:PutLogEvents"]
    resources = ["${aws_cloudwatch_log_group.this.arn}:*"]
  }

  dynamic "statement" {
    for_each = length(var.sources) > 0 ? [values(var.sources)[*].arn] : []

    content {
      sid       = "Take"
      actions   = ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes", "sqs:GetQueueUrl"]
      resources = statement.value
    }
  }

  dynamic "statement" {
    for_each = var.shared.kms_key == null ? [] : [var.shared.kms_key]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]
    }
  }
}

resource "aws_iam_role_policy" "run" {
  name   = "run"
  role   = aws_iam_role.this.id
  policy = data.aws_iam_policy_document.run.json
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/aws/lambda/${var.name}"
  retention_in_days = var.shared.log_days
  tags              = var.shared.tags
}

resource "aws_lambda_function" "this" {
  function_name                  = var.name
  role                           = aws_iam_role.this.arn
  runtime                        = "provided.al2023"
  handler                        = "bootstrap"
  architectures                  = [var.shared.architecture]
  filename                       = var.package
  source_code_hash               = filebase64sha256(var.package)
  layers                         = var.shared.layers
  timeout                        = var.spec.timeout_s
  memory_size                    = var.spec.memory_mib
  reserved_concurrent_executions = var.concurrency
  kms_key_arn                    = var.shared.kms_key
  tags                           = var.shared.tags

  environment {
    variables = var.shared.environment
  }

  # Before its first invocation, so that it may take and log.
  depends_on = [aws_cloudwatch_log_group.this, aws_iam_role_policy.run, aws_iam_role_policy.work]
}

# Timers come round until their block is final, and a task as often as workers hand it back: on purpose, and bounded by push0's own rules
# (docs/aws.md). Lambda must not take it for a mistake.
resource "aws_lambda_function_recursion_config" "this" {
  count = var.recursive ? 1 : 0

  function_name  = aws_lambda_function.this.function_name
  recursive_loop = "Allow"
}

resource "aws_lambda_event_source_mapping" "this" {
  for_each = var.sources

  function_name    = aws_lambda_function.this.arn
  event_source_arn = each.value.arn
  batch_size       = each.value.batch
  # What is not named in the answer is deleted.
  function_response_types = ["ReportBatchItemFailures"]
  tags                    = var.shared.tags

  dynamic "provisioned_poller_config" {
    for_each = each.value.pollers == 0 ? [] : [each.value.pollers]

    content {
      minimum_pollers = provisioned_poller_config.value
      maximum_pollers = 200
    }
  }
}

output "name" {
  description = "Its name."
  value       = aws_lambda_function.this.function_name
}

output "arn" {
  description = "Its ARN."
  value       = aws_lambda_function.this.arn
}

output "role" {
  description = "ARN of its role."
  value       = aws_iam_role.this.arn
}

output "log_group" {
  description = "Where it logs to."
  value       = aws_cloudwatch_log_group.this.name
}
