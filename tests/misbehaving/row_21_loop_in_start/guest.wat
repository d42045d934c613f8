;; Never gets as far as being asked.
(func $start (loop (br 0)))
(start $start)
(func $forward (param $table i32) (param $length i32) (param $rows i32) (param $count i32) (result i32)
  (call $answer (local.get $count) (i32.const 0) (global.get $values) (i32.const 2)))
