# One screen for whoever is woken: is it final, is it proving, is anybody there.

locals {
  widgets = concat(local.always, [
    for stage in var.hedged_stages : {
      title   = "Copies of stragglers: ${stage}"
      stat    = "Sum"
      metrics = [[var.prefix, "push0_hedges_sent_count", "stage", stage], [var.prefix, "push0_hedges_won_count", "stage", stage]]
    }
  ])
  always = [
    { title = "Blocks released and not final", stat = "Maximum", metrics = [for chain in var.chains : [var.prefix, "push0_blocks_unfinished_count", "chain", chain]] },
    { title = "Blocks final with a proof", stat = "Sum", metrics = [for chain in var.chains : [var.prefix, "push0_blocks_finalized_count", "chain", chain]] },
    { title = "Submission to final, p95 [ms]", stat = "p95", metrics = [for chain in var.chains : [var.prefix, "push0_block_milliseconds", "chain", chain]] },
    { title = "Blocks failed, chains halted", stat = "Sum", metrics = concat(
      [for chain in var.chains : [var.prefix, "push0_blocks_failed_count", "chain", chain]],
      [for chain in var.chains : [var.prefix, "push0_halts_count", "chain", chain]],
    ) },
    { title = "Oldest message [s]", stat = "Maximum", metrics = [for queue in local.taken : ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", queue.name]] },
    { title = "Tasks waiting", stat = "Maximum", metrics = [for name in flatten(values(local.work_queues)) : ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", module.topology.queues[name].name]] },
    { title = "Tasks being proven", stat = "Maximum", metrics = [for name in flatten(values(local.work_queues)) : ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", module.topology.queues[name].name]] },
    { title = "Instances in service", stat = "Average", metrics = [for pool in concat(keys(var.pools), [local.trusted]) : ["AWS/AutoScaling", "GroupInServiceInstances", "AutoScalingGroupName", "${var.prefix}-${pool}"]] },
    { title = "Functions: errors and throttles", stat = "Sum", metrics = concat(
      [for name in local.function_names : ["AWS/Lambda", "Errors", "FunctionName", "${var.prefix}-${name}"]],
      [for name in local.function_names : ["AWS/Lambda", "Throttles", "FunctionName", "${var.prefix}-${name}"]],
    ) },
    { title = "Failed attempts", stat = "Sum", metrics = [for kind in ["retryable", "permanent", "bad_input", "out_of_memory", "lost"] : [var.prefix, "push0_failures_count", "kind", kind]] },
    { title = "GPUs that failed", stat = "Sum", metrics = [for pool in keys(var.pools) : [var.prefix, "push0_device_failures_count", "pool", pool]] },
    { title = "Reports", stat = "Sum", metrics = [for outcome in ["accepted", "failed", "noted", "ignored", "over"] : [var.prefix, "push0_reports_count", "outcome", outcome]] },
    { title = "Tasks soon ready", stat = "Maximum", metrics = [for pool in keys(var.pools) : [var.prefix, "push0_tasks_soon_count", "pool", pool]] },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = var.prefix
  dashboard_body = jsonencode({
    widgets = [
      for at, widget in local.widgets : {
        type   = "metric"
        x      = 8 * (at % 3)
        y      = 6 * floor(at / 3)
        width  = 8
        height = 6
        properties = {
          title   = widget.title
          region  = data.aws_region.current.region
          view    = "timeSeries"
          stat    = widget.stat
          period  = 60
          metrics = widget.metrics
        }
      }
    ]
  })
}
