;; A million handles of a resource of its own.
(component
  (type $r (resource (rep i32)))
  (core func $new (canon resource.new $r))
  (core module $m (import "" "new" (func $new (param i32) (result i32)))
    (func $start (local $left i32)
      (local.set $left (i32.const 1000000))
      (loop $more
        (drop (call $new (i32.const 1)))
        (br_if $more (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))
    (start $start))
  (core instance (instantiate $m (with "" (instance (export "new" (func $new))))))
  (instance $i) (export "falkirk:migration/transform@0.1.0" (instance $i)))
