# What the functions share: the configuration, as a layer. Each has a file of its own with what it may do.

data "archive_file" "config" {
  type        = "zip"
  source_dir  = var.config
  output_path = "${path.root}/.terraform/push0-${var.prefix}-config.zip"
}

resource "aws_lambda_layer_version" "config" {
  layer_name       = "${var.prefix}-config"
  description      = "push0.toml and what it names"
  filename         = data.archive_file.config.output_path
  source_code_hash = data.archive_file.config.output_base64sha256
}

locals {
  function = {
    architecture = var.architecture
    layers       = [aws_lambda_layer_version.config.arn]
    environment = {
      PUSH0_CONFIG     = "/opt/push0.toml"
      PUSH0_AWS_PREFIX = var.prefix
    }
    log_days = var.log_days
    kms_key  = var.kms_key
    tags     = local.tags
  }
  # Of each function: what it takes from, and how many messages at a time.
  sources = {
    for function in keys(module.topology.functions) : function => {
      for source in values(module.topology.sources) : source.queue => {
        arn   = aws_sqs_queue.this[source.queue].arn
        batch = source.batch
        # Pollers of its own for what is on the way of every block.
        pollers = endswith(source.queue, "-dlq") || module.topology.queues[source.queue].is_fifo ? 0 : var.provisioned_pollers
      } if source.function == function
    }
  }
  table_arn = aws_dynamodb_table.this["state"].arn
  blobs     = { for name, bucket in module.topology.buckets : name => aws_s3_bucket.this[name].arn }
  prefix_arns = merge([
    for name, bucket in module.topology.buckets : { for prefix in bucket.prefixes : prefix => "${aws_s3_bucket.this[name].arn}/${prefix}*" }
  ]...)
}
