variables {
  queues             = ["push0-work-gpu-realtime", "push0-work-gpu-standard", "push0-work-gpu-bulk"]
  timers             = "push0-timers"
  pool               = "gpu"
  namespace          = "push0"
  group              = "push0-gpu"
  slots              = 2
  tasks_per_instance = 6
}

run "what_workers_hold_is_counted_as_well_as_what_waits" {
  command = plan

  assert {
    condition     = alltrue([for metric in output.metrics : length(regexall("\\b${metric.id}\\b", join(" ", output.expressions[*].expression))) > 0])
    error_message = "A metric is asked for and not used."
  }
  assert {
    condition = alltrue([for queue in var.queues : toset([
      for metric in output.metrics : metric.metric_name if try(metric.dimensions.QueueName, "") == queue
    ]) == toset(["ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"])])
    error_message = "Of each queue both counts are needed: a busy pool's queues are empty."
  }
}

run "busy_instances_are_needed_whatever_waits" {
  command = plan

  variables {
    queues = ["push0-work-gpu-realtime"]
  }

  assert {
    condition = { for step in output.expressions : step.id => step.expression } == {
      there  = "IF(instances < 1, 1, instances)"
      busy   = "IF(h0 < 2 * there, (h0) / (2 * there), 1)"
      wanted = "(w0 + h0 + FILL(soon, 0)) / (6 * there)"
      last   = "IF(runs > 0, 1 / there, 0)"
      share  = "IF(busy > wanted, IF(busy > last, busy, last), IF(wanted > last, wanted, last))"
    }
    error_message = "The expressions changed: think through what they do to a pool that is all busy, to one that is half idle, and to none."
  }
  assert {
    condition     = output.target == 1 && output.expressions[length(output.expressions) - 1].id == "share"
    error_message = "All busy is a share of 1: with any higher target busy instances would be ended."
  }
}

run "it_fits_into_an_alarm" {
  command = plan

  assert {
    condition     = length(output.metrics) <= 10 && length(concat(output.metrics[*].id, output.expressions[*].id)) <= 20
    error_message = "CloudWatch takes ten metrics, and twenty with expressions."
  }
  assert {
    condition     = !anytrue([for step in concat(output.expressions, output.from_zero) : strcontains(replace(step.expression, "FILL(soon, 0)", ""), "FILL")])
    error_message = "Counts that are not there yet would look like none."
  }
}

run "every_queue_can_wake_the_pool_and_none_can_while_somebody_is_wanted" {
  command = plan

  assert {
    condition     = sort([for alarm in output.from_zero : try(alarm.metrics[0].dimensions.QueueName, "soon")]) == sort(concat(var.queues, ["soon"]))
    error_message = "A class of work would wait for ever."
  }
  assert {
    condition     = alltrue([for alarm in output.from_zero : alarm.expression == "IF(desired < 1, ${alarm.metrics[0].id}, 0)"])
    error_message = "Its steps set a number of instances: with some already wanted they could take them away."
  }
}

run "steps_leave_no_gap" {
  command = plan

  assert {
    condition     = output.steps[0].from == 0 && output.steps[0].to == output.steps[1].from && output.steps[1].to == output.steps[2].from && output.steps[2].to == null
    error_message = "Each step begins where the one before ends, and the last has no end."
  }
}

run "an_instance_has_to_be_enough_for_its_slots" {
  command = plan

  variables {
    tasks_per_instance = 1
  }

  expect_failures = [var.tasks_per_instance]
}
