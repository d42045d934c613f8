;; Answers single rows only.
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (if (i32.gt_u (local.get $count) (i32.const 1)) (then unreachable))
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
