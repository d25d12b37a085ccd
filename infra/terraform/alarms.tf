# What wakes an operator. Each alarm's text ends with its page in docs/runbook.

locals {
  function_names = keys(module.topology.functions)
  # Taken by workers or functions; what is put aside for people, and dead letters, have alarms of their own.
  taken = { for name, queue in module.topology.queues : name => queue if queue.dead_letters_of == null && !contains(["poison", "finalized.fifo"], name) }
  # A task of a class may wait for so many slots.
  patience = { realtime = 1, standard = 5, bulk = 300 }

  age_alarms = {
    for name, queue in local.taken : "age-${replace(name, ".", "-")}" => {
      text      = "The oldest message on ${name} has waited too long."
      page      = "queue-age"
      namespace = "AWS/SQS"
      metric    = "ApproximateAgeOfOldestMessage"
      # A function's queue: two of its visibilities, so that one crash is no alarm. Timers are delayed, a quarter of an hour at most, and may be
      # counted while they are.
      threshold  = queue.class != "" ? max(30, var.slot_s * local.patience[queue.class]) : 2 * queue.visibility_s + (name == "timers" ? 900 : 0)
      dimensions = { QueueName = queue.name }
      stat       = "Maximum"
      periods    = 2
    }
  }
  dead_letter_alarms = {
    for name, queue in module.topology.queues : "dead-${replace(name, ".", "-")}" => {
      text       = "Messages lie on ${name} and are not taken."
      page       = "dead-letters"
      namespace  = "AWS/SQS"
      metric     = "ApproximateNumberOfMessagesVisible"
      threshold  = 0
      dimensions = { QueueName = queue.name }
      stat       = "Minimum"
      # The functions take dead letters, too: only what stays says something.
      periods = 5
    } if queue.dead_letters_of != null
  }
  kept_alarms = {
    poison = {
      text       = "A message that can never be handled was put aside."
      page       = "poison"
      namespace  = "AWS/SQS"
      metric     = "ApproximateNumberOfMessagesVisible"
      threshold  = 0
      dimensions = { QueueName = module.topology.queues["poison"].name }
      stat       = "Maximum"
      periods    = 1
    }
    finalized = {
      text       = "Nobody takes finalized blocks: the oldest has waited for an hour."
      page       = "finalized-not-taken"
      namespace  = "AWS/SQS"
      metric     = "ApproximateAgeOfOldestMessage"
      threshold  = 3600
      dimensions = { QueueName = module.topology.queues["finalized.fifo"].name }
      stat       = "Maximum"
      periods    = 1
    }
  }
  chain_alarms = merge([
    for chain in var.chains : {
      "failed-${chain}" = {
        text       = "A block of ${chain} failed: finalization waits for an operator."
        page       = "block-failed"
        namespace  = var.prefix
        metric     = "push0_blocks_failed_count"
        threshold  = 0
        dimensions = { chain = chain }
        stat       = "Sum"
        periods    = 1
      }
      "halted-${chain}" = {
        text       = "${chain} halted: a block names another parent than the last final one, or provers disagree."
        page       = "chain-halted"
        namespace  = var.prefix
        metric     = "push0_halts_count"
        threshold  = 0
        dimensions = { chain = chain }
        stat       = "Sum"
        periods    = 1
      }
      "lag-${chain}" = {
        text       = "${chain} has ${var.lag_blocks} blocks or more that are released and not final."
        page       = "finalization-lag"
        namespace  = var.prefix
        metric     = "push0_blocks_unfinished_count"
        threshold  = var.lag_blocks - 1
        dimensions = { chain = chain }
        stat       = "Maximum"
        periods    = 3
      }
      "slow-${chain}" = {
        text       = "Blocks of ${chain} take more than three slots from submission to final."
        page       = "slot-budget"
        namespace  = var.prefix
        metric     = "push0_block_milliseconds"
        threshold  = 3000 * var.slot_s
        dimensions = { chain = chain }
        stat       = "p95"
        periods    = 3
      }
      "late-${chain}" = {
        text       = "Blocks of ${chain} miss their deadline."
        page       = "deadlines-missed"
        namespace  = var.prefix
        metric     = "push0_deadlines_missed_count"
        threshold  = 0
        dimensions = { chain = chain }
        stat       = "Sum"
        periods    = 3
      }
    }
  ]...)
  function_alarms = merge([
    for name in local.function_names : {
      "errors-${name}" = {
        text       = "Invocations of ${name} die or time out."
        page       = "function-errors"
        namespace  = "AWS/Lambda"
        metric     = "Errors"
        threshold  = 0
        dimensions = { FunctionName = "${var.prefix}-${name}" }
        stat       = "Sum"
        periods    = 3
      }
      "throttles-${name}" = {
        text       = "${name} is throttled: the account's concurrency, or its own, is used up."
        page       = "function-throttles"
        namespace  = "AWS/Lambda"
        metric     = "Throttles"
        threshold  = 0
        dimensions = { FunctionName = "${var.prefix}-${name}" }
        stat       = "Sum"
        periods    = 3
      }
      "duration-${name}" = {
        text       = "${name} needs more than four fifths of its time-out."
        page       = "function-duration"
        namespace  = "AWS/Lambda"
        metric     = "Duration"
        threshold  = 800 * module.topology.functions[name].timeout_s
        dimensions = { FunctionName = "${var.prefix}-${name}" }
        stat       = "p99"
        periods    = 3
      }
    }
  ]...)
  table_alarms = merge([
    for name, table in module.topology.tables : {
      for kind in ["read", "write"] : "${kind}-throttled-${name}" => {
        text       = "The table ${name} refuses to be ${kind == "read" ? "read" : "written"}."
        page       = "table-throttled"
        namespace  = "AWS/DynamoDB"
        metric     = "${title(kind)}ThrottleEvents"
        threshold  = 0
        dimensions = { TableName = "${var.prefix}-${name}" }
        stat       = "Sum"
        periods    = 3
      }
    }
  ]...)
  device_alarms = {
    for pool in keys(var.pools) : "device-${pool}" => {
      text       = "A GPU of the pool ${pool} failed under a task."
      page       = "device-failed"
      namespace  = var.prefix
      metric     = "push0_device_failures_count"
      threshold  = 0
      dimensions = { pool = pool }
      stat       = "Sum"
      periods    = 1
    }
  }
  # A bug in push0, whichever it is.
  invariant_alarms = {
    for invariant in local.invariants : "invariant-${invariant}" => {
      text       = "A write or a send broke invariant ${invariant}, and was refused: a bug in push0."
      page       = "invariant-broken"
      namespace  = var.prefix
      metric     = "push0_invariants_broken_count"
      threshold  = 0
      dimensions = { invariant = invariant }
      stat       = "Sum"
      periods    = 1
    }
  }

  alarms = merge(
    local.age_alarms, local.dead_letter_alarms, local.kept_alarms, local.chain_alarms, local.function_alarms, local.table_alarms, local.device_alarms,
    local.invariant_alarms,
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = local.alarms

  alarm_name          = "${var.prefix}-${each.key}"
  alarm_description   = "${each.value.text} ${var.runbook}/${each.value.page}.md"
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  dimensions          = each.value.dimensions
  statistic           = startswith(each.value.stat, "p") ? null : each.value.stat
  extended_statistic  = startswith(each.value.stat, "p") ? each.value.stat : null
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  period              = 60
  evaluation_periods  = each.value.periods
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = local.tags
}

# Shares of what workers report, in percent, of minutes with enough of it to have any.
locals {
  reports = { for outcome in ["accepted", "failed", "ignored"] : outcome => { metric = "push0_reports_count", dimensions = { outcome = outcome } } }
  share_alarms = merge(
    {
      tasks-failing = {
        text      = "More than one attempt in five fails."
        page      = "tasks-failing"
        metrics   = { for outcome in ["failed", "accepted"] : outcome => local.reports[outcome] }
        part      = "FILL(failed, 0)"
        whole     = "(FILL(failed, 0) + FILL(accepted, 0))"
        threshold = 20
      }
      work-twice = {
        text      = "More than one report in four is of work that was done already."
        page      = "work-twice"
        metrics   = { for outcome in ["ignored", "accepted"] : outcome => local.reports[outcome] }
        part      = "FILL(ignored, 0)"
        whole     = "(FILL(ignored, 0) + FILL(accepted, 0))"
        threshold = 25
      }
    },
    {
      for stage in var.hedged_stages : "stragglers-${stage}" => {
        text      = "More than one task in ten is a straggler, and proven twice: stage ${stage}."
        page      = "stragglers"
        metrics   = merge({ accepted = local.reports["accepted"] }, { sent = { metric = "push0_hedges_sent_count", dimensions = { stage = stage } } })
        part      = "FILL(sent, 0)"
        whole     = "FILL(accepted, 0)"
        threshold = 10
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "share" {
  for_each = local.share_alarms

  alarm_name          = "${var.prefix}-${each.key}"
  alarm_description   = "${each.value.text} ${var.runbook}/${each.value.page}.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = 3
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = local.tags

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = var.prefix
        metric_name = metric_query.value.metric
        dimensions  = metric_query.value.dimensions
        stat        = "Sum"
        period      = 300
      }
    }
  }
  metric_query {
    id          = "share"
    label       = "percent"
    expression  = "IF(${each.value.whole} > 20, 100 * ${each.value.part} / ${each.value.whole}, 0)"
    return_data = true
  }
}

# Blocks wait and none became final for ten slots.
resource "aws_cloudwatch_metric_alarm" "stuck" {
  for_each = toset(var.chains)

  alarm_name          = "${var.prefix}-stuck-${each.key}"
  alarm_description   = "${each.key} has blocks that are released, and none became final. ${var.runbook}/chain-stuck.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = max(2, ceil(10 * var.slot_s / 60))
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = local.tags

  metric_query {
    id          = "unfinished"
    return_data = false

    metric {
      namespace   = var.prefix
      metric_name = "push0_blocks_unfinished_count"
      dimensions  = { chain = each.key }
      stat        = "Minimum"
      period      = 60
    }
  }
  metric_query {
    id          = "finalized"
    return_data = false

    metric {
      namespace   = var.prefix
      metric_name = "push0_blocks_finalized_count"
      dimensions  = { chain = each.key }
      stat        = "Sum"
      period      = 60
    }
  }
  metric_query {
    id          = "stuck"
    label       = "blocks that wait while none becomes final"
    expression  = "IF(FILL(finalized, 0) < 1, unfinished, 0)"
    return_data = true
  }
}

# The reaper comes round every minute: when it does not, nothing heals, and the lag is not measured.
resource "aws_cloudwatch_metric_alarm" "reaper" {
  alarm_name          = "${var.prefix}-reaper-stopped"
  alarm_description   = "The reaper has not run for five minutes. ${var.runbook}/reaper-stopped.md"
  namespace           = "AWS/Lambda"
  metric_name         = "Invocations"
  dimensions          = { FunctionName = module.reaper.name }
  statistic           = "Sum"
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  period              = 60
  evaluation_periods  = 5
  treat_missing_data  = "breaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = local.tags
}

# Fewer instances than wanted: no capacity, a quota, or an image that does not come up.
resource "aws_cloudwatch_metric_alarm" "shortfall" {
  for_each = merge({ for name, pool in module.pool : name => pool.group }, { (local.trusted) = module.trusted.group })

  alarm_name          = "${var.prefix}-shortfall-${each.key}"
  alarm_description   = "The pool ${each.key} has fewer instances in service than it wants. ${var.runbook}/fleet-shortfall.md"
  comparison_operator = "GreaterThanThreshold"
  threshold           = 0
  evaluation_periods  = 10
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topics
  ok_actions          = var.alarm_topics
  tags                = local.tags

  dynamic "metric_query" {
    for_each = { desired = "GroupDesiredCapacity", serving = "GroupInServiceInstances" }

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = "AWS/AutoScaling"
        metric_name = metric_query.value
        dimensions  = { AutoScalingGroupName = each.value }
        stat        = "Average"
        period      = 60
      }
    }
  }
  metric_query {
    id          = "missing"
    label       = "instances that are missing"
    expression  = "desired - serving"
    return_data = true
  }
}
